-- Which generation each one took the place of, 0 for none. Where there is no row it is the one before by its number.
CREATE TABLE replaced (
    owner  INTEGER NOT NULL,
    number INTEGER NOT NULL,
    before INTEGER NOT NULL,
    PRIMARY KEY (owner, number)
) WITHOUT ROWID;

-- Digests under which somebody asked for a manifest by hand: no index that links to it takes the place of that ref.
CREATE TABLE asked (
    repository INTEGER NOT NULL,
    name       TEXT NOT NULL,
    PRIMARY KEY (repository, name)
) WITHOUT ROWID;
