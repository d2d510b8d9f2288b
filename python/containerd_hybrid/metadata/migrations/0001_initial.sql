-- The whole schema of the first release; docs/schema.md explains it. All times are Unix nanoseconds,
-- all sizes bytes, labels and annotations JSON objects of strings to strings.

CREATE TABLE namespaces (
    name        TEXT PRIMARY KEY,
    labels      TEXT NOT NULL DEFAULT '{}',
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE leases (
    namespace   TEXT NOT NULL,
    id          TEXT NOT NULL,
    labels      TEXT NOT NULL DEFAULT '{}',
    created_at  INTEGER NOT NULL,
    expires_at  INTEGER,               -- from the label containerd.io/gc.expire
    PRIMARY KEY (namespace, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE lease_resources (
    namespace   TEXT NOT NULL,
    lease       TEXT NOT NULL,
    type        TEXT NOT NULL,         -- content, ingests, images, snapshots/<snapshotter>
    key         TEXT NOT NULL,
    PRIMARY KEY (namespace, lease, type, key),
    FOREIGN KEY (namespace, lease) REFERENCES leases (namespace, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE images (
    namespace   TEXT NOT NULL,
    name        TEXT NOT NULL,
    media_type  TEXT NOT NULL,
    digest      TEXT NOT NULL,
    size        INTEGER NOT NULL,
    annotations TEXT NOT NULL DEFAULT '{}',
    labels      TEXT NOT NULL DEFAULT '{}',
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    PRIMARY KEY (namespace, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE containers (
    namespace        TEXT NOT NULL,
    id               TEXT NOT NULL,
    image            TEXT NOT NULL DEFAULT '',
    runtime_name     TEXT NOT NULL,
    runtime_options_type  TEXT,
    runtime_options_value BLOB,
    spec_type        TEXT,
    spec_value       BLOB,
    snapshotter      TEXT NOT NULL DEFAULT '',
    snapshot_key     TEXT NOT NULL DEFAULT '',
    sandbox          TEXT NOT NULL DEFAULT '',
    labels           TEXT NOT NULL DEFAULT '{}',
    created_at       INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL,
    PRIMARY KEY (namespace, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE container_extensions (
    namespace   TEXT NOT NULL,
    container   TEXT NOT NULL,
    name        TEXT NOT NULL,
    type        TEXT NOT NULL,
    value       BLOB NOT NULL,
    PRIMARY KEY (namespace, container, name),
    FOREIGN KEY (namespace, container) REFERENCES containers (namespace, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- One row for each namespace that may see a blob; the bytes are shared.
CREATE TABLE content (
    namespace   TEXT NOT NULL,
    digest      TEXT NOT NULL,
    size        INTEGER NOT NULL,
    labels      TEXT NOT NULL DEFAULT '{}',
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    PRIMARY KEY (namespace, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX content_by_digest ON content (digest);

-- An ingest's folder is named by number, as clients' refs may be long and differ by namespace only.
CREATE TABLE ingests (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    namespace   TEXT NOT NULL,
    ref         TEXT NOT NULL,
    total       INTEGER NOT NULL DEFAULT 0,
    expected    TEXT,
    started_at  INTEGER NOT NULL,
    expires_at  INTEGER,
    UNIQUE (namespace, ref)
) STRICT;

CREATE TABLE snapshots (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,   -- also the name of its folder
    namespace   TEXT NOT NULL,
    snapshotter TEXT NOT NULL,
    name        TEXT NOT NULL,
    parent      INTEGER REFERENCES snapshots (id),
    kind        TEXT NOT NULL CHECK (kind IN ('view', 'active', 'committed')),
    size        INTEGER NOT NULL DEFAULT 0,
    inodes      INTEGER NOT NULL DEFAULT 0,
    labels      TEXT NOT NULL DEFAULT '{}',
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    UNIQUE (namespace, snapshotter, name)
) STRICT;
CREATE INDEX snapshots_by_parent ON snapshots (parent);

CREATE TABLE sandboxes (
    namespace        TEXT NOT NULL,
    id               TEXT NOT NULL,
    runtime_name     TEXT NOT NULL,
    runtime_options_type  TEXT,
    runtime_options_value BLOB,
    spec_type        TEXT,
    spec_value       BLOB,
    sandboxer        TEXT NOT NULL DEFAULT '',
    labels           TEXT NOT NULL DEFAULT '{}',
    extensions       TEXT NOT NULL DEFAULT '{}',     -- name → [type url, base64 of the value]
    created_at       INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL,
    PRIMARY KEY (namespace, id)
) STRICT, WITHOUT ROWID;

-- The garbage collector's graph, kept up to date in the same transaction as the labels it comes from:
-- (namespace, from) holds (namespace, to). Types are those of lease_resources, plus containers and sandboxes.
CREATE TABLE refs (
    namespace   TEXT NOT NULL,
    from_type   TEXT NOT NULL,
    from_key    TEXT NOT NULL,
    to_type     TEXT NOT NULL,
    to_key      TEXT NOT NULL,
    back        INTEGER NOT NULL DEFAULT 0,          -- containerd.io/gc.bref.*: the row was written by its target
    PRIMARY KEY (namespace, from_type, from_key, to_type, to_key, back)
) STRICT, WITHOUT ROWID;

-- Labels containerd.io/gc.root: things that live without anybody holding them.
CREATE TABLE roots (
    namespace   TEXT NOT NULL,
    type        TEXT NOT NULL,
    key         TEXT NOT NULL,
    PRIMARY KEY (namespace, type, key)
) STRICT, WITHOUT ROWID;
