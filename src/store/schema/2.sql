-- What a task that takes longer than the gateway runs needs to remember, such as how far verification is.
CREATE TABLE note (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
