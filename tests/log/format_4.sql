PRAGMA application_id = 1263291993;
PRAGMA user_version = 4;
BEGIN TRANSACTION;
CREATE TABLE batch_keys (key TEXT PRIMARY KEY, seq INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO "batch_keys" VALUES('batch-2',12);
CREATE TABLE entries (
    idx INTEGER NOT NULL,
    owner TEXT NOT NULL,
    value BLOB NOT NULL,
    key TEXT NOT NULL,
    PRIMARY KEY (idx, owner, value, key)
) STRICT, WITHOUT ROWID;
INSERT INTO "entries" VALUES(1,'',X'036F70656E0000','[2]');
INSERT INTO "entries" VALUES(1,'',X'036F70656E0000','[4]');
INSERT INTO "entries" VALUES(1,'',X'036F70656E0000','[6]');
INSERT INTO "entries" VALUES(1,'',X'03706169640000','[1]');
INSERT INTO "entries" VALUES(1,'',X'03706169640000','[3]');
INSERT INTO "entries" VALUES(1,'',X'03706169640000','[5]');
CREATE TABLE indexes (
    id INTEGER PRIMARY KEY,
    tbl INTEGER NOT NULL,
    columns TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'building' CHECK (state IN ('building', 'ready', 'dropped')),
    owner TEXT NOT NULL DEFAULT '',
    key TEXT NOT NULL DEFAULT '',
    UNIQUE (tbl, columns)
) STRICT;
INSERT INTO "indexes" VALUES(1,1,'[["status", null]]','ready','','');
CREATE TABLE log (
    seq INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    tbl INTEGER NOT NULL,
    owner TEXT NOT NULL,
    kind TEXT NOT NULL,
    size INTEGER NOT NULL,
    old_seq INTEGER,
    id TEXT,
    row TEXT,
    old TEXT
) STRICT;
INSERT INTO "log" VALUES(9,1795648838000,1,'','update',176,2,NULL,'{"id":2,"status":"void"}','{"id":2,"status":"open"}');
INSERT INTO "log" VALUES(10,1795648838000,1,'','delete',152,3,NULL,NULL,'{"id":3,"status":"paid"}');
INSERT INTO "log" VALUES(11,1795648838000,2,'alice','update',183,7,NULL,'{"id":"a","text":"\u00e9"}','{"id":"a","text":"hi\tthere"}');
INSERT INTO "log" VALUES(12,1795648838000,1,'','insert',152,NULL,'evt-7','{"id":7,"status":"open"}',NULL);
INSERT INTO "log" VALUES(13,1795648838000,3,'','insert',144,NULL,NULL,'{"name":"login"}',NULL);
CREATE TABLE rows (
    tbl INTEGER NOT NULL,
    owner TEXT NOT NULL,
    key TEXT NOT NULL,
    seq INTEGER NOT NULL,
    row TEXT NOT NULL,
    PRIMARY KEY (tbl, owner, key)
) STRICT, WITHOUT ROWID;
INSERT INTO "rows" VALUES(1,'','[1]',1,'{"id":1,"status":"paid"}');
INSERT INTO "rows" VALUES(1,'','[2]',9,'{"id":2,"status":"void"}');
INSERT INTO "rows" VALUES(1,'','[4]',4,'{"id":4,"status":"open"}');
INSERT INTO "rows" VALUES(1,'','[5]',5,'{"id":5,"status":"paid"}');
INSERT INTO "rows" VALUES(1,'','[6]',6,'{"id":6,"status":"open"}');
INSERT INTO "rows" VALUES(1,'','[7]',12,'{"id":7,"status":"open"}');
INSERT INTO "rows" VALUES(2,'alice','["a"]',11,'{"id":"a","text":"\u00e9"}');
INSERT INTO "rows" VALUES(2,'bob','["b"]',8,'{"id":"b","text":"it''s"}');
CREATE TABLE source_positions (source TEXT PRIMARY KEY, position TEXT NOT NULL) STRICT;
CREATE TABLE source_tables (
    source TEXT NOT NULL,
    name TEXT NOT NULL,
    definition TEXT NOT NULL,
    PRIMARY KEY (source, name)
) STRICT;
CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    last_seq INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    horizon INTEGER NOT NULL,
    floor INTEGER NOT NULL DEFAULT 0,
    base INTEGER NOT NULL DEFAULT 0,
    indexes INTEGER NOT NULL DEFAULT 0,
    indexed INTEGER NOT NULL DEFAULT 0,
    trims INTEGER NOT NULL DEFAULT 0,
    sources INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO "state" VALUES(1,13,807,8,0,0,2,8,1,0);
CREATE TABLE tables (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    primary_key TEXT NOT NULL,
    horizon INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO "tables" VALUES(1,'app.orders','shared','["id"]',6);
INSERT INTO "tables" VALUES(2,'app.notes','user','["id"]',8);
INSERT INTO "tables" VALUES(3,'app.events','shared','[]',0);
CREATE INDEX log_by_owner ON log (tbl, owner, seq, old_seq);
CREATE UNIQUE INDEX log_by_id ON log (id) WHERE id IS NOT NULL;
CREATE INDEX batch_keys_by_seq ON batch_keys (seq);
CREATE INDEX rows_by_seq ON rows (tbl, owner, seq);
COMMIT;
