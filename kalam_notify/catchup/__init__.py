"""Catching up: snapshots, resumes and slow readers, brought level with the head."""
