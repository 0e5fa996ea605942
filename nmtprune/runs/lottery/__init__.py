"""`lottery`: what is asked for, checked and scheduled (`request`, `setup`, `schedule`), done, and what comes out of it.

The loop (`loop`) goes through stages (`stages`); a stage trains by `trainer` what `trainings` describes, in the places
that `folder` names.
"""
