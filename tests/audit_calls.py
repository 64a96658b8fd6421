"""Calls of an audit log, as tests read them."""

from __future__ import annotations

import json

import numpy as np

from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import SampleStatus
from fedpredict.security.audit_line import AuditedCall


def answered_call(text: bytes, request_id: str, sample_ids: SampleIds) -> AuditedCall:
    """Return the call that a line's fields say; its statuses in the order of their values."""
    fields = json.loads(b"{%b}" % text)
    status = [SampleStatus[name] for name, n in fields["statuses"].items() for _ in range(n)]
    return AuditedCall(
        fields["what"],
        fields["caller"],
        request_id,
        fields.get("model", ""),
        fields.get("manifest", ""),
        fields["mode"],
        fields["rows"],
        fields["epoch"],
        fields["outcome"],
        sample_ids,
        np.array(status, dtype=np.uint8),
        token=fields.get("token", ""),
        purpose=fields.get("purpose", ""),
    )
