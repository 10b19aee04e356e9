-- Repositories are named <host>/<path>; a name without a host was pushed so.
CREATE TABLE repository (
    id   INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);

-- Every digest that is known. state: 0 only heard of (a link of a sparse index), 1 here, 2 set aside as damaged.
CREATE TABLE blob (
    id     INTEGER PRIMARY KEY,
    digest TEXT NOT NULL UNIQUE,
    size   INTEGER NOT NULL,
    state  INTEGER NOT NULL,
    stored INTEGER NOT NULL,
    used   INTEGER NOT NULL
);

-- What may be fetched through a repository. kind: 0 blob, 1 manifest.
CREATE TABLE member (
    repository INTEGER NOT NULL,
    blob       INTEGER NOT NULL,
    kind       INTEGER NOT NULL,
    PRIMARY KEY (repository, blob, kind)
) WITHOUT ROWID;
CREATE INDEX member_blob ON member (blob);

-- What a manifest says of itself; its bytes are the blob.
CREATE TABLE manifest (
    blob          INTEGER PRIMARY KEY,
    media_type    TEXT NOT NULL,
    artifact_type TEXT,
    subject       INTEGER,
    annotations   TEXT
);
CREATE INDEX manifest_subject ON manifest (subject) WHERE subject IS NOT NULL;

-- What a manifest refers to. kind: 0 blob, 1 manifest.
CREATE TABLE link (
    parent INTEGER NOT NULL,
    child  INTEGER NOT NULL,
    kind   INTEGER NOT NULL,
    PRIMARY KEY (parent, child)
) WITHOUT ROWID;
CREATE INDEX link_child ON link (child);

-- kind: 0 bundle, 1 mirror, 2 pull-through, 3 push; the lower goes first. current: the generation in force.
CREATE TABLE owner (
    id      INTEGER PRIMARY KEY,
    kind    INTEGER NOT NULL,
    name    TEXT NOT NULL,
    current INTEGER NOT NULL,
    UNIQUE (kind, name)
);

CREATE TABLE generation (
    owner  INTEGER NOT NULL,
    number INTEGER NOT NULL,
    made   INTEGER NOT NULL,
    note   TEXT NOT NULL,
    PRIMARY KEY (owner, number)
) WITHOUT ROWID;

-- name: a tag, or a digest for what was stored without one.
CREATE TABLE ref (
    repository INTEGER NOT NULL,
    name       TEXT NOT NULL,
    owner      INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    blob       INTEGER NOT NULL,
    stored     INTEGER NOT NULL,
    used       INTEGER NOT NULL,
    PRIMARY KEY (repository, name, owner, generation)
) WITHOUT ROWID;
CREATE INDEX ref_owner ON ref (owner, generation);
CREATE INDEX ref_blob ON ref (blob);

-- repository: the path of the chart repository, empty for the one at the root. entry: the line of index.yaml.
CREATE TABLE chart (
    repository TEXT NOT NULL,
    name       TEXT NOT NULL,
    version    TEXT NOT NULL,
    owner      INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    blob       INTEGER NOT NULL,
    provenance INTEGER,
    created    INTEGER NOT NULL,
    entry      TEXT NOT NULL,
    PRIMARY KEY (repository, name, version, owner, generation)
) WITHOUT ROWID;
CREATE INDEX chart_owner ON chart (owner, generation);

-- Blobs that somebody needs whatever refs say, such as the images of running pods.
CREATE TABLE pin (
    holder TEXT NOT NULL,
    blob   INTEGER NOT NULL,
    PRIMARY KEY (holder, blob)
) WITHOUT ROWID;

-- Trust state that moves with the refs: root-version, time-floor, seq:<stream>.
CREATE TABLE trust (
    key   TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;
