"""A load test that others can rerun: `python -m loadtest QUESTION`. README.md tells how to read it.

__main__.py        the command line
questions.py       all questions by name; each is a module of its own beside it
harness/           server process, CPU accounting, producer, blocks, report, plot
client/            thousands of subscribers in one C program, and its stand-in in Python
floor/             the bare send loop, and the bare SQLite loop, that figures stand beside
"""
