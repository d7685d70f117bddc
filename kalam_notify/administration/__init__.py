"""What operators ask about connections, subscriptions and tables, over all workers.

    questions.py   what one worker may be asked, and what it answers; ids and cursors
    finding.py     which of its connections, subscriptions and tables a page is of
    listing.py     what is told of each, in steps of the budget
    standing.py    how far behind a position on the log is
    why.py         what became of one change at one user's subscriptions
    office.py      answers the questions at one worker
    gathering.py   asks all of them, and makes one page of what they tell

Whoever is asked over HTTP puts a question to each worker in turn (through the supervisor where
there are several) until a page is full. Nothing is kept for it: a cursor tells worker, connection
and subscription, and what has gone meanwhile is passed over. What became of a change is judged when
it is asked, out of the log; the delivery path writes nothing down.
"""
