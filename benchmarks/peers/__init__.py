"""diito against its peers on the same work: ``python -m benchmarks.peers --help``.

``cases``: what is compared, and the goals. ``environments``: an environment of its own for each set of pinned packages
(``*.txt`` here). ``turns``: the sides of a case, each in a process of its own, one at a time. ``tables``: what came out.
``sides/`` runs in the peers' environments, where there is no diito: it imports nothing from outside of its folder but the peer.
"""
