PRAGMA application_id = 1263291993;
PRAGMA user_version = 2;
BEGIN TRANSACTION;
CREATE TABLE batch_keys (key TEXT PRIMARY KEY, seq INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO "batch_keys" VALUES('batch-1',8);
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
INSERT INTO "log" VALUES(1,1795648718473,1,'','insert',152,NULL,'evt-1','{"id":1,"status":"paid"}',NULL);
INSERT INTO "log" VALUES(2,1795648718473,1,'','insert',152,NULL,'evt-2','{"id":2,"status":"open"}',NULL);
INSERT INTO "log" VALUES(3,1795648718473,1,'','insert',152,NULL,'evt-3','{"id":3,"status":"paid"}',NULL);
INSERT INTO "log" VALUES(4,1795648718473,1,'','insert',152,NULL,'evt-4','{"id":4,"status":"open"}',NULL);
INSERT INTO "log" VALUES(5,1795648718473,1,'','insert',152,NULL,'evt-5','{"id":5,"status":"paid"}',NULL);
INSERT INTO "log" VALUES(6,1795648718473,1,'','insert',152,NULL,'evt-6','{"id":6,"status":"open"}',NULL);
INSERT INTO "log" VALUES(7,1795648718487,1,'','update',176,2,NULL,'{"id":2,"status":"void"}','{"id":2,"status":"open"}');
INSERT INTO "log" VALUES(8,1795648718487,1,'','delete',152,3,NULL,NULL,'{"id":3,"status":"paid"}');
INSERT INTO "log" VALUES(9,1795648718490,2,'alice','insert',157,NULL,NULL,'{"id":"a","text":"hi\tthere"}',NULL);
INSERT INTO "log" VALUES(10,1795648718490,2,'bob','insert',152,NULL,NULL,'{"id":"b","text":"it''s"}',NULL);
INSERT INTO "log" VALUES(11,1795648718495,3,'','insert',144,NULL,NULL,'{"kind":"login"}',NULL);
CREATE TABLE rows (
    tbl INTEGER NOT NULL,
    owner TEXT NOT NULL,
    key TEXT NOT NULL,
    seq INTEGER NOT NULL,
    row TEXT NOT NULL,
    PRIMARY KEY (tbl, owner, key)
) STRICT, WITHOUT ROWID;
INSERT INTO "rows" VALUES(1,'','[1]',1,'{"id":1,"status":"paid"}');
INSERT INTO "rows" VALUES(1,'','[2]',7,'{"id":2,"status":"void"}');
INSERT INTO "rows" VALUES(1,'','[4]',4,'{"id":4,"status":"open"}');
INSERT INTO "rows" VALUES(1,'','[5]',5,'{"id":5,"status":"paid"}');
INSERT INTO "rows" VALUES(1,'','[6]',6,'{"id":6,"status":"open"}');
INSERT INTO "rows" VALUES(2,'alice','["a"]',9,'{"id":"a","text":"hi\tthere"}');
INSERT INTO "rows" VALUES(2,'bob','["b"]',10,'{"id":"b","text":"it''s"}');
CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    last_seq INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    horizon INTEGER NOT NULL,
    floor INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO "state" VALUES(1,11,1693,0,0);
CREATE TABLE tables (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    primary_key TEXT NOT NULL,
    horizon INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO "tables" VALUES(1,'app.orders','shared','["id"]',0);
INSERT INTO "tables" VALUES(2,'app.notes','user','["id"]',0);
INSERT INTO "tables" VALUES(3,'app.events','shared','[]',0);
CREATE INDEX log_by_owner ON log (tbl, owner, seq, old_seq);
CREATE UNIQUE INDEX log_by_id ON log (id) WHERE id IS NOT NULL;
CREATE INDEX batch_keys_by_seq ON batch_keys (seq);
CREATE INDEX rows_by_seq ON rows (tbl, owner, seq);
COMMIT;
