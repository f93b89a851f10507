"""Campaigns: many executions, over the processes of one machine or over a cluster.

`tasks` has what a worker is asked and answers; `plan` divides a search into tasks; `pool` has them
done by fresh local processes, `cluster` by Dask; `run` puts it all together.
"""
