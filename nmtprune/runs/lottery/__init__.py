"""`lottery`: what is asked for and checked (`job`), scheduled (`schedule`) and found (`outcomes`).

The loop (`rewinding`) goes through stages (`stages`), which train in the places that `folder` names.
"""
