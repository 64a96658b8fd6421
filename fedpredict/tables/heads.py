"""Publishing and loading heads: what an initiator finishes the parties' shares with, in its own warehouse.

A head has no versions of its own: the manifest names it by digest, and of several the newest that has the parts'
training run and structure is offered with them. The rows of its numbers are written first, the row that describes it
last (ADR 0001), both once.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime

from fedpredict.errors import TableCorruptError
from fedpredict.model.head import HeadModel
from fedpredict.model.ids import check_model_id
from fedpredict.tables.head_layouts import layout_of
from fedpredict.tables.head_version import HEAD_COLUMNS, HeadVersion, head_from_row, head_to_row
from fedpredict.tables.schemas import HEADS
from fedpredict.tables.version import SALT_BYTES
from fedpredict.warehouse.base import Warehouse

logger = logging.getLogger(__name__)

_FORMAT = "fedpredict-head-1"


def publish_head(warehouse: Warehouse, head: HeadModel, source_sha256: str) -> tuple[HeadVersion, bool]:
    """Write a head; publishing a file again gives the same digest, and heals what was interrupted or damaged.

    Args:
        warehouse: The initiator's own.
        head: The head.
        source_sha256: The digest of the file.

    Returns:
        The head, and whether anything was written.
    """
    layout = layout_of(head.head.combination.combining)
    for schema in (HEADS, layout.schema):
        warehouse.ensure(schema)
    known = [each for each in list_heads(warehouse, head.model_id) if each.source_sha256 == source_sha256]
    salt = known[0].salt if known else secrets.token_bytes(SALT_BYTES)
    version = _described(head, salt, source_sha256)
    stored = [each for each in known if each.head_sha256 == version.head_sha256]
    if stored and _is_whole(warehouse, stored[0]):
        return stored[0], False
    warehouse.replace(layout.schema.name, version.partition, layout.to_rows(head.head))
    warehouse.replace(HEADS.name, version.partition, head_to_row(version))
    logger.info("head.published", extra={"model": version.model_id, "head_sha256": version.head_sha256})
    return version, True


def list_heads(warehouse: Warehouse, model_id: str | None = None) -> list[HeadVersion]:
    """Return the published heads, of one model or of all, the newest first.

    Raises:
        TableCorruptError: A row that cannot be understood.
    """
    where = {} if model_id is None else {"model_id": check_model_id(model_id)}
    rows = warehouse.read(HEADS.name, HEAD_COLUMNS, where).to_pylist()
    return sorted(map(head_from_row, rows), key=lambda each: (each.created_at, each.head_sha256), reverse=True)


def load_head(warehouse: Warehouse, version: HeadVersion) -> HeadModel:
    """Return a head, read from its rows and verified against its digest.

    Raises:
        TableCorruptError: The rows are not those that were published; the message names the model and the fix.
    """
    layout = layout_of(version.combination.combining)
    columns = [column.name for column in layout.schema.columns]
    rows = warehouse.read(layout.schema.name, columns, version.partition)
    try:
        head = HeadModel(
            model_id=version.model_id,
            training_run=version.training_run,
            party=version.party,
            kind=version.kind,
            classes=version.classes,
            link=version.link,
            head=layout.from_rows(rows, version),
            metadata=dict(version.metadata),
        )
        digest = head_sha256(head, version.salt)
    except (TableCorruptError, ValueError) as error:
        raise _corrupt(version, str(error)) from error
    if digest != version.head_sha256:
        raise _corrupt(version, "its rows give another digest")
    return head


def delete_heads(warehouse: Warehouse, model_id: str) -> int:
    """Remove all heads of a model; return how many there were."""
    heads = list_heads(warehouse, model_id)
    for version in heads:
        warehouse.replace(HEADS.name, version.partition, HEADS.arrow_schema.empty_table())
        schema = layout_of(version.combination.combining).schema
        warehouse.replace(schema.name, version.partition, schema.arrow_schema.empty_table())
    return len(heads)


def head_sha256(head: HeadModel, salt: bytes) -> str:
    """Return the SHA-256 (hex) over the canonical bytes of a head, as `digest` has them of a part."""
    digest = hashlib.sha256()
    for each in (salt, *_fields(head)):
        digest.update(len(each).to_bytes(8, "big"))
        digest.update(each)
    return digest.hexdigest()


def _fields(head: HeadModel) -> Iterator[bytes]:
    combination = head.head.combination
    texts = [
        _FORMAT,
        head.model_id,
        head.party,
        head.training_run,
        head.kind.value,
        str(head.link),
        combination.combining.value,
        combination.structure_sha256,
        str(combination.n_outputs),
        str(len(head.classes)),
        *head.classes,
    ]
    yield from (text.encode() for text in texts)
    yield from layout_of(combination.combining).digest_fields(head.head)


def _described(head: HeadModel, salt: bytes, source_sha256: str) -> HeadVersion:
    return HeadVersion(
        model_id=head.model_id,
        head_sha256=head_sha256(head, salt),
        party=head.party,
        training_run=head.training_run,
        kind=head.kind,
        link=head.link,
        classes=head.classes,
        combination=head.head.combination,
        n_scores=head.head.n_scores,
        options=layout_of(head.head.combination.combining).options(head.head),
        salt=salt,
        metadata=head.metadata,
        created_at=datetime.now(UTC),
        source_sha256=source_sha256,
    )


def _is_whole(warehouse: Warehouse, version: HeadVersion) -> bool:
    try:
        load_head(warehouse, version)
    except TableCorruptError:
        return False
    return True


def _corrupt(version: HeadVersion, why: str) -> TableCorruptError:
    table = layout_of(version.combination.combining).schema.name
    return TableCorruptError(
        f"head {version.head_sha256[:12]} of model {version.model_id} in {table}: {why}; convert the head again"
    )
