"""The story of one execution: who did what, in order, and where it went wrong.

`story` has the data and `record_story`, which runs an execution again and listens; `recorder` is the listener
and decides what says something and what is folded away; `no_return` finds the step after which no
schedule could end well.  `text` draws a story for a terminal, `html` as one page that needs
nothing else.

Nothing here runs, or costs anything, while no story is told.
"""
