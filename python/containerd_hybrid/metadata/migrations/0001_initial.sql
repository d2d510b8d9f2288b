-- The whole schema of the first release; docs/schema.md explains it. All times are Unix nanoseconds,
-- all sizes bytes, labels and annotations JSON objects of strings to strings without empty values.
--
-- Never write with REPLACE (a conflict would delete a row behind the writer's back): use
-- INSERT … ON CONFLICT … DO UPDATE.

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
    expires_at  INTEGER,                        -- from the label containerd.io/gc.expire
    flat        INTEGER NOT NULL DEFAULT 0,     -- from the label containerd.io/gc.flat
    PRIMARY KEY (namespace, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE lease_resources (
    namespace   TEXT NOT NULL,
    lease       TEXT NOT NULL,
    type        TEXT NOT NULL,                  -- content, ingests, images, snapshots/<snapshotter>
    key         TEXT NOT NULL,
    PRIMARY KEY (namespace, lease, type, key),
    FOREIGN KEY (namespace, lease) REFERENCES leases (namespace, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX lease_resources_by_key ON lease_resources (namespace, type, key);

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
    expires_at  INTEGER,                        -- from the label containerd.io/gc.expire
    PRIMARY KEY (namespace, name)
) STRICT, WITHOUT ROWID;

-- Specs are tens of kilobytes, so the rows are kept out of the primary key's tree.
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
    extensions       TEXT NOT NULL DEFAULT '{}', -- name → [type url, base64 of the value]
    created_at       INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL,
    PRIMARY KEY (namespace, id)
) STRICT;

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

-- The number tells two ingests of one ref apart that follow each other; see rows.ingest_key.
CREATE TABLE ingests (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    namespace   TEXT NOT NULL,
    ref         TEXT NOT NULL,
    total       INTEGER NOT NULL DEFAULT 0,
    expected    TEXT,                           -- a blob of another namespace whose bytes it stands for
    started_at  INTEGER NOT NULL,
    expires_at  INTEGER,                        -- NULL while a lease holds it
    UNIQUE (namespace, ref)
) STRICT;
CREATE INDEX ingests_by_expected ON ingests (expected) WHERE expected IS NOT NULL;

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
    extensions       TEXT NOT NULL DEFAULT '{}', -- name → [type url, base64 of the value]
    created_at       INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL,
    PRIMARY KEY (namespace, id)
) STRICT;

-- The garbage collector's graph: (namespace, from) holds (namespace, to). Types are those of
-- lease_resources, plus containers and sandboxes. Either end may not exist (yet, or any more).
--   field  an object's own column; kept by the triggers below; the only kind a flat lease follows
--   label  containerd.io/gc.ref.*   on the from end; kept by refs.py
--   back   containerd.io/gc.bref.*  on the to end;   kept by refs.py
--   cond   containerd.io/gc.cond.*  on the from end; holds while the to end's used_at satisfies op and age
CREATE TABLE refs (
    namespace   TEXT NOT NULL,
    from_type   TEXT NOT NULL,
    from_key    TEXT NOT NULL,
    to_type     TEXT NOT NULL,
    to_key      TEXT NOT NULL,
    kind        TEXT NOT NULL CHECK (kind IN ('field', 'label', 'back', 'cond')),
    op          TEXT NOT NULL DEFAULT '' CHECK (op IN ('', '<', '>')),
    age         INTEGER NOT NULL DEFAULT 0,     -- nanoseconds
    PRIMARY KEY (namespace, from_type, from_key, to_type, to_key, kind, op, age)
) STRICT, WITHOUT ROWID;
CREATE INDEX refs_by_target ON refs (namespace, to_type, to_key);

-- Labels containerd.io/gc.root of content and snapshots: they live without anybody holding them.
CREATE TABLE roots (
    namespace   TEXT NOT NULL,
    type        TEXT NOT NULL,
    key         TEXT NOT NULL,
    PRIMARY KEY (namespace, type, key)
) STRICT, WITHOUT ROWID;

-- Labels containerd.io/gc.cond.value-usedat of snapshots: what a cond reference compares with.
CREATE TABLE used_at (
    namespace   TEXT NOT NULL,
    type        TEXT NOT NULL,
    key         TEXT NOT NULL,
    at          INTEGER NOT NULL,
    PRIMARY KEY (namespace, type, key, at)
) STRICT, WITHOUT ROWID;

-- Blobs that lost a record since the last collection: the bytes go if no record is left.
CREATE TABLE released (
    digest      TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
CREATE TRIGGER content_released AFTER DELETE ON content BEGIN
    INSERT INTO released (digest) VALUES (old.digest) ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER ingests_released AFTER DELETE ON ingests WHEN old.expected IS NOT NULL BEGIN
    INSERT INTO released (digest) VALUES (old.expected) ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER ingests_released_change AFTER UPDATE OF expected ON ingests
WHEN old.expected IS NOT NULL AND old.expected IS NOT new.expected BEGIN
    INSERT INTO released (digest) VALUES (old.expected) ON CONFLICT DO NOTHING;
END;

-- A namespace exists once something is written in it.
CREATE TRIGGER images_namespace AFTER INSERT ON images BEGIN
    INSERT INTO namespaces (name, created_at, updated_at) VALUES (new.namespace, new.created_at, new.created_at)
    ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER containers_namespace AFTER INSERT ON containers BEGIN
    INSERT INTO namespaces (name, created_at, updated_at) VALUES (new.namespace, new.created_at, new.created_at)
    ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER content_namespace AFTER INSERT ON content BEGIN
    INSERT INTO namespaces (name, created_at, updated_at) VALUES (new.namespace, new.created_at, new.created_at)
    ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER ingests_namespace AFTER INSERT ON ingests BEGIN
    INSERT INTO namespaces (name, created_at, updated_at) VALUES (new.namespace, new.started_at, new.started_at)
    ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER snapshots_namespace AFTER INSERT ON snapshots BEGIN
    INSERT INTO namespaces (name, created_at, updated_at) VALUES (new.namespace, new.created_at, new.created_at)
    ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER sandboxes_namespace AFTER INSERT ON sandboxes BEGIN
    INSERT INTO namespaces (name, created_at, updated_at) VALUES (new.namespace, new.created_at, new.created_at)
    ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER leases_namespace AFTER INSERT ON leases BEGIN
    INSERT INTO namespaces (name, created_at, updated_at) VALUES (new.namespace, new.created_at, new.created_at)
    ON CONFLICT DO NOTHING;
END;

-- References that are columns.
CREATE TRIGGER images_field AFTER INSERT ON images BEGIN
    INSERT INTO refs (namespace, from_type, from_key, to_type, to_key, kind)
    VALUES (new.namespace, 'images', new.name, 'content', new.digest, 'field');
END;
CREATE TRIGGER images_field_change AFTER UPDATE OF digest ON images WHEN old.digest <> new.digest BEGIN
    DELETE FROM refs WHERE namespace = old.namespace AND from_type = 'images' AND from_key = old.name
        AND kind = 'field';
    INSERT INTO refs (namespace, from_type, from_key, to_type, to_key, kind)
    VALUES (new.namespace, 'images', new.name, 'content', new.digest, 'field');
END;
CREATE TRIGGER containers_field AFTER INSERT ON containers WHEN new.snapshotter <> '' BEGIN
    INSERT INTO refs (namespace, from_type, from_key, to_type, to_key, kind)
    VALUES (new.namespace, 'containers', new.id, 'snapshots/' || new.snapshotter, new.snapshot_key, 'field');
END;
CREATE TRIGGER containers_field_change AFTER UPDATE OF snapshot_key ON containers
WHEN new.snapshotter <> '' AND old.snapshot_key <> new.snapshot_key BEGIN
    DELETE FROM refs WHERE namespace = old.namespace AND from_type = 'containers' AND from_key = old.id
        AND kind = 'field';
    INSERT INTO refs (namespace, from_type, from_key, to_type, to_key, kind)
    VALUES (new.namespace, 'containers', new.id, 'snapshots/' || new.snapshotter, new.snapshot_key, 'field');
END;
CREATE TRIGGER ingests_field AFTER INSERT ON ingests WHEN new.expected IS NOT NULL BEGIN
    INSERT INTO refs (namespace, from_type, from_key, to_type, to_key, kind)
    VALUES (new.namespace, 'ingests', new.ref, 'content', new.expected, 'field');
END;
CREATE TRIGGER ingests_field_change AFTER UPDATE OF expected ON ingests WHEN old.expected IS NOT new.expected BEGIN
    DELETE FROM refs WHERE namespace = old.namespace AND from_type = 'ingests' AND from_key = old.ref;
    INSERT INTO refs (namespace, from_type, from_key, to_type, to_key, kind)
    SELECT new.namespace, 'ingests', new.ref, 'content', new.expected, 'field' WHERE new.expected IS NOT NULL;
END;
CREATE TRIGGER snapshots_field AFTER INSERT ON snapshots WHEN new.parent IS NOT NULL BEGIN
    INSERT INTO refs (namespace, from_type, from_key, to_type, to_key, kind)
    SELECT new.namespace, 'snapshots/' || new.snapshotter, new.name, 'snapshots/' || snapshotter, name, 'field'
    FROM snapshots WHERE id = new.parent;
END;
-- Committing gives a snapshot its lasting name; its labels are then written anew by refs.py. A parent may
-- be given at that moment too.
CREATE TRIGGER snapshots_field_change AFTER UPDATE OF name, parent ON snapshots
WHEN old.name <> new.name OR old.parent IS NOT new.parent BEGIN
    DELETE FROM refs WHERE namespace = old.namespace AND from_type = 'snapshots/' || old.snapshotter
        AND from_key = old.name AND (kind = 'field' OR old.name <> new.name) AND kind <> 'back';
    DELETE FROM refs WHERE namespace = old.namespace AND to_type = 'snapshots/' || old.snapshotter
        AND to_key = old.name AND kind = 'back' AND old.name <> new.name;
    DELETE FROM roots WHERE namespace = old.namespace AND type = 'snapshots/' || old.snapshotter
        AND key = old.name AND old.name <> new.name;
    DELETE FROM used_at WHERE namespace = old.namespace AND type = 'snapshots/' || old.snapshotter
        AND key = old.name AND old.name <> new.name;
    INSERT INTO refs (namespace, from_type, from_key, to_type, to_key, kind)
    SELECT new.namespace, 'snapshots/' || new.snapshotter, new.name, 'snapshots/' || snapshotter, name, 'field'
    FROM snapshots WHERE id = new.parent;
END;

-- What an object wrote into the graph goes with it.
CREATE TRIGGER images_graph AFTER DELETE ON images BEGIN
    DELETE FROM refs WHERE namespace = old.namespace AND from_type = 'images' AND from_key = old.name
        AND kind <> 'back';
    DELETE FROM refs WHERE namespace = old.namespace AND to_type = 'images' AND to_key = old.name
        AND kind = 'back';
END;
CREATE TRIGGER containers_graph AFTER DELETE ON containers BEGIN
    DELETE FROM refs WHERE namespace = old.namespace AND from_type = 'containers' AND from_key = old.id
        AND kind <> 'back';
    DELETE FROM refs WHERE namespace = old.namespace AND to_type = 'containers' AND to_key = old.id
        AND kind = 'back';
END;
CREATE TRIGGER sandboxes_graph AFTER DELETE ON sandboxes BEGIN
    DELETE FROM refs WHERE namespace = old.namespace AND from_type = 'sandboxes' AND from_key = old.id
        AND kind <> 'back';
END;
CREATE TRIGGER ingests_graph AFTER DELETE ON ingests BEGIN
    DELETE FROM refs WHERE namespace = old.namespace AND from_type = 'ingests' AND from_key = old.ref
        AND kind <> 'back';
END;
CREATE TRIGGER content_graph AFTER DELETE ON content BEGIN
    DELETE FROM refs WHERE namespace = old.namespace AND from_type = 'content' AND from_key = old.digest
        AND kind <> 'back';
    DELETE FROM refs WHERE namespace = old.namespace AND to_type = 'content' AND to_key = old.digest
        AND kind = 'back';
    DELETE FROM roots WHERE namespace = old.namespace AND type = 'content' AND key = old.digest;
END;
CREATE TRIGGER snapshots_graph AFTER DELETE ON snapshots BEGIN
    DELETE FROM refs WHERE namespace = old.namespace AND from_type = 'snapshots/' || old.snapshotter
        AND from_key = old.name AND kind <> 'back';
    DELETE FROM refs WHERE namespace = old.namespace AND to_type = 'snapshots/' || old.snapshotter
        AND to_key = old.name AND kind = 'back';
    DELETE FROM roots WHERE namespace = old.namespace AND type = 'snapshots/' || old.snapshotter
        AND key = old.name;
    DELETE FROM used_at WHERE namespace = old.namespace AND type = 'snapshots/' || old.snapshotter
        AND key = old.name;
END;
