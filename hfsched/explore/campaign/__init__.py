"""Campaigns: many executions, over the processes of one machine or over a cluster.

`tasks` has the requests to workers and their reports; `plan` divides a search into tasks; `pool` runs
them in new local processes, `cluster` on Dask; `run` is the whole campaign.
"""
