"""fedpredict by Airflow (3, with its standard provider), instead of [schedule] in the daemon.

Copy into the folder of DAGs; the commands run where the workers are, so fedpredict and its settings must be there.
A refresh is as of the run's own instant, so a run that is repeated computes the same features.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

PROGRAM = "/opt/fedpredict/bin/fedpredict"
SETTINGS = "--config /etc/fedpredict/participant.toml"
INSTANT = "{{ logical_date.isoformat() }}"  # when the run was due
ZONE = pendulum.timezone("Europe/Berlin")
RETRIES = {"retries": 3, "retry_delay": timedelta(minutes=5), "owner": "risk-ops"}

with DAG(
    "fedpredict_behaviour",
    schedule="0 * * * *",
    start_date=pendulum.datetime(2026, 11, 27, tz=ZONE),
    catchup=False,  # the newest instant alone is of use
    max_active_runs=1,
    default_args=RETRIES,
):
    BashOperator(
        task_id="refresh",
        bash_command=f"{PROGRAM} features refresh behaviour --as-of {INSTANT} --wait 600 {SETTINGS}",
        skip_on_exit_code=10,  # another process does it at this moment
    )

with DAG(
    "fedpredict_score",
    schedule="30 2 * * *",
    start_date=pendulum.datetime(2026, 11, 27, tz=ZONE),
    catchup=False,
    max_active_runs=1,
    default_args=RETRIES,
):
    BashOperator(task_id="score", bash_command=f"{PROGRAM} task score --wait 600 {SETTINGS}")
