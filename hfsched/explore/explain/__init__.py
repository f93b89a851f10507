"""The story of one execution: the visible steps of each task, in order, and the point of failure.

`story` has the data and `record_story`, which repeats an execution with a recorder; `recorder` decides
which steps are shown and which are hidden, `wording` has their texts; `no_return` finds the step after
which every schedule fails.  `text` draws a story for a terminal, `html` as one self-contained page.

Nothing here runs, or costs anything, while no story is recorded.
"""
