-- What the mount manager mounted, by the name a client gave it (containerd.services.mounts.v1).
CREATE TABLE mounts (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,   -- also the name of its folder
    namespace   TEXT NOT NULL,
    name        TEXT NOT NULL,
    lease       TEXT,                           -- holds it; need not exist (any more)
    labels      TEXT NOT NULL DEFAULT '{}',
    active      TEXT,                           -- JSON list; NULL while it is being made
    system      TEXT NOT NULL DEFAULT '[]',     -- JSON list
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    UNIQUE (namespace, name)
) STRICT;
CREATE INDEX mounts_by_lease ON mounts (namespace, lease) WHERE lease IS NOT NULL;

CREATE TRIGGER mounts_graph AFTER DELETE ON mounts BEGIN
    DELETE FROM refs WHERE namespace = old.namespace AND to_type = 'mounts' AND to_key = old.name
        AND kind = 'back';
END;
