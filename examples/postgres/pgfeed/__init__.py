"""From PostgreSQL's committed transactions to the daemon: nothing missed, nothing doubled.

How it works, and why a crash anywhere does no harm
---------------------------------------------------
1. *Starting.* `state.json` says `starting` before the replication slot is created. The slot is
   created through the replication protocol, which exports a snapshot: it shows exactly the
   transactions that the slot will not tell. Under that snapshot the rows of the chosen tables
   are written to a local spool, each with the id it will be posted under. Nothing has been posted
   so far, so a crash here is mended by dropping the slot and starting over.
2. *Copying.* Once the spool is complete and on disk, `state.json` says `copying`. Rows are posted
   from the spool, never from the tables: whatever crashes, the second attempt posts the same rows
   under the same ids, and the daemon counts as duplicates what it already has. That holds for
   tables without a primary key as well, where no row could be recognised by its contents.
3. *Streaming.* `pg_logical_slot_peek_changes` reads what is committed without consuming it; the
   changes are posted under ids made of the commit LSN and the position within the transaction;
   only after the daemon's acknowledgement (its batch is on disk) does
   `pg_replication_slot_advance` move the slot. A crash in between tells the same changes again,
   under the same ids.

What the slot remembers (how far the stream was acknowledged) is kept by PostgreSQL alone. The
state file holds only what the slot cannot know: whether the copy is done. It lives beside the
spool it speaks of, and is replaced by rename after an fsync, so it is always the old or the new.

An id can be recognised for as long as the daemon's log holds it (`log.retention`), so the feeder
must not stay crashed for longer than that between a post and its repetition.
"""
