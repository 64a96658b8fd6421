"""The commented settings that `fedpredict init` writes. Words in double braces are filled in."""

from __future__ import annotations

PARTICIPANT = """\
# Settings of a participant: {{party}} answers initiators with its partial scores.
# Start it with: fedpredict participant serve --config participant.toml
# Relative paths start at this file. FEDPREDICT_PARTICIPANT_LISTEN=... overrides `listen`, and so on;
# FEDPREDICT_PARTICIPANT_WAREHOUSE__PORT=... overrides `port` in [warehouse].

party = "{{party}}"              # this organisation; its certificate says the same
listen = "{{listen}}"     # host:port. Loopback until you know who may reach it: then 0.0.0.0:7443
link_listen = "{{link_listen}}"     # for standing links over sockets, the fast way; without it they go over gRPC
poll_s = 5.0                 # how often the warehouse is asked for new models and features, in seconds
drain_s = 10.0               # how long calls under way may take when the process stops
max_samples = 10000          # most sample ids in one call
keep_versions = 3            # versions of a model that stay loaded, so that a new one breaks nothing

[tls]                        # every connection proves who is at both ends (see `fedpredict certs`)
ca = "certs/ca.pem"
certificate = "certs/{{party}}.pem"
key = "certs/{{party}}.key"
# crl = "certs/ca.crl"       # the CA's revocation list (`fedpredict certs revoke`); read again when it changes
# deny = "certs/denied.txt"  # keys that this party refuses: key_fingerprint of `certs show`, one a line

[warehouse]                  # where this party's features and parameters are
kind = "local"               # a folder of Parquet files, queried in this process
path = "warehouse"
# For Hive, Spark's Thrift Server or Kyuubi, instead of the two lines above:
# kind = "hive"
# host = "hive.example"
# port = 10000
# database = "fedpredict"    # made by `fedpredict init database`, or by hand
# auth = "ldap"              # none, nosasl, ldap, custom, kerberos
# username = "fedpredict"
# password_file = "hive.password"      # or FEDPREDICT_HIVE_PASSWORD
# tls = true
# tls_ca = "certs/hive-ca.pem"
# staging = "hdfs://namenode/tmp/fedpredict"     # needed for large loads

[store]                      # where features stand while they are served
kind = "mapped"              # files that all processes share; "memory": a copy in each, nothing on disk
path = "store"
# For one copy that many machines share, in Redis or Valkey, instead of the two lines above:
# kind = "redis"
# url = "rediss://fedpredict@redis.example:6379/0"
# password_file = "redis.password"     # or FEDPREDICT_REDIS_PASSWORD

# [freshness]
# behaviour = "2h"           # features of that view that are older get STALE and no score

# [schedule]                 # what this daemon does by itself
# timezone = "Europe/Berlin"
# behaviour = "0 * * * *"    # refreshes that registered view at every full hour
# [schedule.tasks]
# score = "30 2 * * *"       # scores the day ahead

# [leases]                   # where processes agree who does what; without it in Redis, or the warehouse's folder
# url = "postgresql+psycopg://user@host/database"    # needed for a schedule where the warehouse is Hive
# password_file = "leases.password"    # or FEDPREDICT_LEASES_PASSWORD

# [tasks]                    # shares of a day that are scored ahead, by `fedpredict task score` or the schedule
# bucket_rows = 4000000      # rows of a bucket, at most on average
# stability_limit = 0.25     # more movement of the scores than that, against the day before, is a warning
# keep_days = 35             # days of them that stay; without it: all
# keep_parameters = 6        # versions of each model whose parameters stay; without it: all
# Buckets of initiators' offline tasks: buckets_at_once = 2, above [tls], so many are computed at a time.

# [populations]              # sample ids that initiators name ahead; `fedpredict population accept` has them count
# max_ids = 50000000         # most ids kept for one initiator; 0: none are taken
# keep_versions = 3          # versions that stay when a newer one is accepted

# [realtime]                 # views that are computed when they are asked for, and where their raw rows are
# transactions = "events"    # or "warehouse", postgresql+psycopg://user@host/database, rediss://host:port/0
# [events]                   # raw events, over HTTP where http_listen = "host:port" stands above [tls]
# senders = ["feeder"]       # names of client certificates

[callers.{{initiator}}]               # an initiator that may ask, by the party in its certificate; nobody else may
models = ["*"]               # or the ids of the models that it may ask for
# modes = ["nearline"]       # of realtime, nearline, offline; and max_rows, calls_per_s, hours, purpose: docs/policy.md
# accept_populations = false # true: what it names ahead counts without this operator's word
# distinct_ids_per_day = 10000           # most sample ids that it may ask about on a day (UTC); without it: any number

# [masked.credit]            # its shares leave masked, so that only their sum can be read: docs/masked-sums.md
# parties = ["post", "shop"] # the other participants of the model; not this one, and not the initiator
# may_lack = ["post"]        # a sum may be made without post, which has to say so itself

# Where no port may be opened inwards, this participant dials: no link_listen, connect = "out" above [tls], and
# [initiators.{{initiator}}]            # each initiator of [callers]; there: [parties.{{party}}] connect = "in"
# addresses = ["bank.example:7440"]        # every replica
# link_addresses = ["bank.example:7441"]   # of each, where it takes links over sockets (its link_listen)

[log]
level = "info"               # debug, info, warning, error; never sample ids, features, weights or scores
# requests = "sampled"       # a line for every hundredth success and every failure; or "all", "errors"

# [audit]                    # who asked for what: every call is in it, or is not answered
# path = "audit"             # a folder that the daemon can write; under systemd "/var/lib/fedpredict/audit"
# anchor = "elsewhere/anchor.txt"      # signed checkpoints, on another machine's disk; or syslog = "syslog.example:514"
# keep_days = 365            # older files are removed; without it: none

# [distinct_ids]             # where distinct_ids_per_day is counted, on a disk of this machine
# path = "distinct-ids"      # under systemd "/var/lib/fedpredict/distinct-ids"

# [metrics]
# listen = "127.0.0.1:9474"  # Prometheus reads /metrics there, and `fedpredict top`; plain HTTP, for operators

# [traces]
# endpoint = "http://127.0.0.1:4318"   # an OpenTelemetry collector
"""

INITIATOR = """\
# Settings of an initiator: {{party}} asks the parties of a model for their partial scores and finishes them.
# Start it with: fedpredict initiator serve --config initiator.toml   (--simulate: without partners, made-up numbers)
# Relative paths start at this file. FEDPREDICT_INITIATOR_LISTEN=... overrides `listen`, and so on;
# FEDPREDICT_INITIATOR_WAREHOUSE__PORT=... overrides `port` in [warehouse].

party = "{{party}}"              # this organisation; its certificate says the same
listen = "{{listen}}"     # host:port. Loopback until you know who may reach it: then 0.0.0.0:7440
http_listen = "{{http_listen}}" # the same over HTTP, and its description at /docs; without this line: no HTTP
state = "sqlite:///state.db" # the pinned versions; PostgreSQL: "postgresql+psycopg://user@host/database"
# state_password_file = "state.password"         # or FEDPREDICT_STATE_PASSWORD
# tokens = "tokens.json"     # users may come with a bearer token (`fedpredict token create`), and without a certificate
# token_listen = "0.0.0.0:7442"        # ... over gRPC there,
# http_client_certificates = "optional"          # ... and over HTTP
deadline_s = 2.0             # longest wait for the parties, in seconds
max_samples = 10000          # most sample ids in one call
poll_s = 5.0                 # how often parties are asked for what they hold
drain_s = 10.0               # how long calls under way may take when the process stops

[tls]                        # every connection proves who is at both ends (see `fedpredict certs`)
ca = "certs/ca.pem"
certificate = "certs/{{party}}.pem"
key = "certs/{{party}}.key"
# crl = "certs/ca.crl"       # the CA's revocation list (`fedpredict certs revoke`); read again when it changes
# deny = "certs/denied.txt"  # keys that this party refuses: key_fingerprint of `certs show`, one a line

[http]                       # limits for every caller over HTTP
max_body_bytes = 16777216    # longest body
max_body_bytes_total = 268435456 # longer bodies than 16 kB on all connections of a process together
request_timeout_s = 10.0     # how long a request may take to arrive
max_connections = 10000      # open at a time
keep_alive_s = 75.0          # how long a connection may be idle

[warehouse]                  # where this party's own features and parameters are, if it holds a part itself
kind = "local"               # or "hive", with host, port, database ... (see docs/hive.md)
path = "warehouse"

[store]                      # where features stand while they are served
kind = "mapped"              # files that all processes share; "memory": a copy in each, nothing on disk
path = "store"
# For one copy that many machines share, in Redis or Valkey, instead of the two lines above:
# kind = "redis"
# url = "rediss://fedpredict@redis.example:6379/0"
# password_file = "redis.password"     # or FEDPREDICT_REDIS_PASSWORD

# [freshness]
# behaviour = "2h"           # features of that view that are older get STALE and no score

# [schedule]                 # what this daemon does by itself
# timezone = "Europe/Berlin"
# behaviour = "0 * * * *"    # refreshes that registered view at every full hour
# [schedule.tasks]
# score = "30 2 * * *"       # scores the day ahead

# [leases]                   # where processes agree who does what; without it: Redis, the warehouse's folder, `state`
# url = "postgresql+psycopg://user@host/database"
# password_file = "leases.password"    # or FEDPREDICT_LEASES_PASSWORD

# [tasks]                    # predictions for whole populations, made in the background (`fedpredict task submit`)
# run = true                 # false: another process, with the same state and warehouse, works on them
# parallel = 1               # tasks at once, in each process
# buckets_under_way = 3      # buckets of a task at the same time: what memory holds
# bucket_deadline_s = 300.0  # how long a party may take for one
# lease_s = 15.0             # how long a task stays with a process that no longer says so
# max_rows = 1000000000      # the most rows of one list
# upload_grace_s = 120.0     # a list may take so long to come, ...
# upload_rows_per_s = 1000.0 # ... and longer by a second for each so many rows
# stability_limit = 0.25     # more movement of the predictions than that, against the task before, is a warning
# keep_days = 35             # days that results, uploaded lists and own stored shares stay; without it: all
# keep_parameters = 6        # versions of each model whose parameters stay; without it: all
# [tasks.tables.customers]   # a table of the warehouse whose ids a task may be about (`--table customers`)
# table = "customers"
# column = "sample_id"
# Standing populations need no settings here: `fedpredict population propose`.

[clients.{{client}}]             # who may ask, by the name in the certificate
models = ["*"]               # or the ids of the models
# modes = ["nearline"]       # of realtime, nearline, offline; and max_rows, calls_per_s, hours, purpose: docs/policy.md

# [parties.telco]            # every other party: where its participant listens
# address = "127.0.0.1:7443" # or, where it dials this initiator: connect = "in"

# [models.credit]            # every model: the parties that hold a part, this one included if it does
# parties = ["{{party}}", "telco"]
# policy = "fail"            # what becomes of a sample that some party cannot score:
#                            #   fail: its status and no number
#                            #   default_partial: the numbers under [models.credit.defaults] stand in for a share
#                            #   fallback_model: the answer of another model that this party holds alone
# masked = true              # only the sum of the others' shares can be read here: docs/masked-sums.md
# head = true                # this party holds what finishes the shares, as `fedpredict model split --head` makes it
# pin = "first"              # "manual": no version is answered with before `fedpredict catalogue pin`
# [models.credit.defaults]
# telco = [0.0]              # one number per score, before the link

[log]
level = "info"               # debug, info, warning, error; never sample ids, features, weights or scores
# requests = "sampled"       # a line for every hundredth success and every failure; or "all", "errors"

# [audit]                    # who asked for what: every call is in it, or is not answered
# path = "audit"             # a folder that the daemon can write; under systemd "/var/lib/fedpredict/audit"
# anchor = "elsewhere/anchor.txt"      # signed checkpoints, on another machine's disk; or syslog = "syslog.example:514"
# keep_days = 365            # older files are removed; without it: none

# [metrics]
# listen = "127.0.0.1:9464"  # Prometheus reads /metrics there, and `fedpredict top`; plain HTTP, for operators

# [traces]
# endpoint = "http://127.0.0.1:4318"   # an OpenTelemetry collector
"""

CLIENT = """\
# For `fedpredict predict --config client.toml --model ID SAMPLE...`. Relative paths start at this file.

server = "{{listen}}"
server_party = "{{party}}"       # the party that the server's certificate must name
timeout_s = 30.0

[tls]
ca = "certs/ca.pem"
certificate = "certs/{{client}}.pem"
key = "certs/{{client}}.key"
"""


def fill(template: str, **words: str) -> str:
    """Return a template with its words filled in.

    >>> fill('party = "{{party}}"', party="lab")
    'party = "lab"'
    """
    for name, word in words.items():
        template = template.replace("{{" + name + "}}", word)
    return template
