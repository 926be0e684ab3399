"""``make shootout``: netdump, netdump2 and TFTP side by side, and what one would answer the review.

    field.py    who is played, under what, and which modules each client is made of
    play.py     one run of each; lines and bytes; ``Results``, which a file of JSON can hold
    page.py     docs/protocol-shootout.md, of results and nothing else
    plots.py    its plots

All is played on ``sim``, in virtual time: a rate here is that of the protocol over the modelled
line, and the same on each machine. How fast the programs themselves are is ``make bench``.
"""
