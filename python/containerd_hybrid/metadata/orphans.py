"""Leases whose process died inside of a pull, import or unpack."""

from __future__ import annotations

import datetime

from containerd_hybrid.leases.api import EXPIRE_LABEL, OWNER_LABEL, has_ended
from containerd_hybrid.metadata.api import Database, Transaction
from containerd_hybrid.metadata.rows import decode_map, encode_map
from containerd_hybrid.model.labels import expiry

# For whoever begins the same again: what was fetched is still here then.
_GRACE = datetime.timedelta(hours=1)


async def shorten_dead_leases(database: Database) -> int:
    """Let leases of dead processes end in an hour, and half-made snapshots at once; how many."""

    def work(transaction: Transaction) -> int:
        connection = transaction.connection
        leases = connection.execute("SELECT namespace, id, labels FROM leases").fetchall()
        end = datetime.datetime.now(datetime.UTC) + _GRACE
        count = 0
        for namespace, lease, text in leases:
            labels = dict(decode_map(text))
            if not has_ended(labels.pop(OWNER_LABEL, "")):
                continue
            count += 1
            labels[EXPIRE_LABEL] = end.strftime("%Y-%m-%dT%H:%M:%SZ")
            connection.execute(
                "UPDATE leases SET labels = ?, expires_at = ? WHERE namespace = ? AND id = ?",
                (encode_map(labels), expiry(labels), namespace, lease),
            )
            connection.execute(
                "DELETE FROM lease_resources WHERE namespace = ? AND lease = ?"
                " AND type GLOB 'snapshots/*' AND key GLOB 'extract-*'",
                (namespace, lease),
            )
        if count:
            transaction.mark_dirty()
        return count

    return await database.write(work)
