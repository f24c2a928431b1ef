"""Representations along time: time-resolved and cross-temporal comparisons, and their tests."""

from repalign.dynamics.courses import time_resolved
from repalign.dynamics.generalisation import cross_temporal
from repalign.dynamics.latency_tables import latency_table
from repalign.dynamics.significant_times import cluster_table, time_clusters

__all__ = ["cluster_table", "cross_temporal", "latency_table", "time_clusters", "time_resolved"]
