"""Races on plain state: every access of the code under exploration, without a point of its own.

Points at synchronisation alone are enough only where there are no data races.  So a *race pass* runs
schedules in which each function has its watched code: the same statements, in which every access to
an attribute, an item, a container, a variable of a closure or of a module, or to guest memory reports
itself first.  Two accesses to the same place, one of them a write, which vector clocks do not order,
are a failure with both lines.

`scopes`, `targets`, `patterns`, `expressions` and `rewrite` make the watched code from the source, `codes` exchanges a
function's two codes between executions.  `hooks`, `variables`, `iteration` and `matching` are what watched code
calls, and `current` has the watcher that they report to.  `places`, `replaced`, `standins`, `containers`, `calls`, `methods`,
`callbacks`, `libraries` and `reads` decide which places an operation reads or writes; `rules` has the
names, `kinds`, `functions` and `views` what an object is.  `history` decides whether two accesses are ordered.
`guarded` names what is written under a lock and not compared, `declared` has the fields that are declared,
`control` the controller of a watched execution, and `racepass` the pass itself.

Ordinary executions use none of it.
"""
