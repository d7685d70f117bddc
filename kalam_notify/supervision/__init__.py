"""Several worker processes on one machine, and the supervisor that keeps them.

                  supervisor    binds, starts, restarts, passes on, adds up
               ____|   |   |____          a socket pair to each (channel.py)
              |        |        |
           worker 1  worker 2  worker 3   one listening address, a socket each (SO_REUSEPORT)
              |________|________|
                       |
                    the log               and a doorbell for each of them

Workers are alike: each accepts, ingests, fans out, and talks to the others through the log alone.
The supervisor serves nobody. It binds one listening socket for each worker, and every process
inherits all of them, so none is ever closed while the server runs: the kernel spreads connections
over the sockets, and whoever comes while a worker is dead is not refused.
A dead worker's slot is *vacant*; until its replacement is ready, the living ones accept from its
socket besides their own, from what already waits in its backlog onwards.

A worker is a fresh process (exec, no fork of a threaded one). What it is to run with comes over
its socket pair, so that no secret is seen in `ps`, in its environment or in a file. The pair also
tells a worker that its supervisor has died: it then stops as if it had been told to.

    messages.py    what is said between supervisor and worker
    channel.py     how: frames on the socket pair
    pacing.py      when a dead worker is replaced: at once, and later and later if that does no good
    listening.py       one worker's slot, seen from the supervisor
    supervisor.py  the whole crew
    child.py       the worker's side
    lifeline.py    how it ends with its supervisor even if its event loop is stuck
"""
