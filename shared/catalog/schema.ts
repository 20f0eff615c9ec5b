/**
 * catalog.db of one group on one node, the same in every role, so that a promoted replica has its manifest already.
 *
 * The manifest is versioned by birth (the seq of the cut that wrote the row): what holds at cut N is, for each key, the
 * row with the greatest birth <= N. Rows of a cut that is not committed yet have a birth above the committed seq and are
 * seen by nobody; forgetting such a cut deletes its birth.
 */
export const catalogVersion = 3;

const damaged = `
-- Objects whose file on this node is not as we left it. asked: only the primary has its bytes; else it is looked at
-- first. renewed: seq of the committed cut that brings them, in the object's staged file.
CREATE TABLE damaged (
  object INTEGER PRIMARY KEY, store INTEGER NOT NULL, path TEXT NOT NULL, what TEXT NOT NULL,
  asked INTEGER NOT NULL DEFAULT 0, renewed INTEGER
) STRICT;
`;

const touched = `
-- What a node that rejoins has otherwise than the cut that it stands at: paths, and blocks of objects (128 bits for each run
-- of 128 blocks). Its first cut from the primary brings them right, and empties both.
CREATE TABLE touched_paths (
  store INTEGER NOT NULL, dir TEXT NOT NULL, name TEXT NOT NULL, PRIMARY KEY (store, dir, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE touched_blocks (
  object INTEGER NOT NULL, run INTEGER NOT NULL, blocks BLOB NOT NULL, PRIMARY KEY (object, run)
) STRICT, WITHOUT ROWID;
`;

/** What brings a catalog of an older version to the next one. */
export const migrations: ReadonlyMap<number, string> = new Map([
  [1, damaged],
  [2, touched],
]);

export const schema = `
CREATE TABLE standing (key TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;

CREATE TABLE stores (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, kind TEXT NOT NULL) STRICT;

-- object NULL: the path is gone. dir and name are latin1 (one character a byte); the root is ('', '').
CREATE TABLE path_versions (
  store INTEGER NOT NULL, dir TEXT NOT NULL, name TEXT NOT NULL, birth INTEGER NOT NULL, object INTEGER,
  PRIMARY KEY (store, dir, name, birth)
) STRICT, WITHOUT ROWID;
CREATE INDEX path_births ON path_versions (birth);
CREATE INDEX path_objects ON path_versions (object);

-- type 1 file, 2 directory, 3 symlink, 0 dead: no path leads to it any more.
CREATE TABLE object_versions (
  object INTEGER NOT NULL, birth INTEGER NOT NULL, type INTEGER NOT NULL, mode INTEGER NOT NULL, uid INTEGER NOT NULL,
  gid INTEGER NOT NULL, mtime_us INTEGER NOT NULL, size INTEGER NOT NULL, block_size INTEGER NOT NULL,
  target TEXT NOT NULL, content BLOB NOT NULL,
  PRIMARY KEY (object, birth)
) STRICT, WITHOUT ROWID;
CREATE INDEX object_births ON object_versions (birth);

-- hashes: 32 bytes a block, no trailing zero hashes. births (primary only): 8 bytes LE a block where they differ.
CREATE TABLE run_versions (
  object INTEGER NOT NULL, run INTEGER NOT NULL, birth INTEGER NOT NULL, hashes BLOB NOT NULL, births BLOB,
  PRIMARY KEY (object, run, birth)
) STRICT, WITHOUT ROWID;
CREATE INDEX run_births ON run_versions (birth);

-- The file of an object on this node: identity and stamps as we last saw or left it.
CREATE TABLE seen (
  object INTEGER PRIMARY KEY, store INTEGER NOT NULL, inode INTEGER NOT NULL, size INTEGER NOT NULL,
  mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL
) STRICT;
CREATE INDEX seen_inodes ON seen (inode, store);

-- state: receiving, committed, applied. point: 1 while it can be restored.
CREATE TABLE cuts (
  seq INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, incarnation TEXT NOT NULL, base_seq INTEGER NOT NULL,
  taken_at_us INTEGER NOT NULL, state TEXT NOT NULL, digest BLOB, coherency TEXT, stores TEXT,
  payload_bytes INTEGER NOT NULL DEFAULT 0, freeze_ms REAL NOT NULL DEFAULT 0, committed_at_us INTEGER,
  applied_at_us INTEGER, point INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Pending redo. place: 0 zeros, 1 inline payload, 2 at position of the cut's segment file, 3 in the object's staged file.
CREATE TABLE extents (
  seq INTEGER NOT NULL, ordinal INTEGER NOT NULL, object INTEGER NOT NULL, offset INTEGER NOT NULL,
  length INTEGER NOT NULL, place INTEGER NOT NULL, position INTEGER NOT NULL, payload BLOB,
  PRIMARY KEY (seq, ordinal)
) STRICT;
CREATE INDEX extent_objects ON extents (object, seq, ordinal);

-- Objects whose bytes come whole, in a staged file named by the object; runs survive a broken session for its resume.
CREATE TABLE staged (
  object INTEGER PRIMARY KEY, store INTEGER NOT NULL, seq INTEGER NOT NULL, block_size INTEGER NOT NULL
) STRICT;
CREATE TABLE staged_runs (
  object INTEGER NOT NULL, run INTEGER NOT NULL, hashes BLOB NOT NULL, PRIMARY KEY (object, run)
) STRICT, WITHOUT ROWID;

-- Old images: bytes of an object as they were until cut 'died'. In history/<file> of its store at 'position'. By offset
-- first: what is asked for is a range of an object, as of a cut.
CREATE TABLE images (
  object INTEGER NOT NULL, died INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL,
  store INTEGER NOT NULL, file INTEGER NOT NULL, position INTEGER NOT NULL,
  PRIMARY KEY (object, offset, died)
) STRICT, WITHOUT ROWID;
CREATE INDEX image_deaths ON images (died);
CREATE INDEX image_files ON images (store, file);
-- Files of objects that lost their last path, kept whole in kept/ of their store while a point may want them.
CREATE TABLE kept (object INTEGER PRIMARY KEY, died INTEGER NOT NULL, store INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;
CREATE INDEX kept_deaths ON kept (died);

CREATE TABLE events (
  id INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, name TEXT NOT NULL, detail TEXT NOT NULL
) STRICT;
${damaged}${touched}`;
