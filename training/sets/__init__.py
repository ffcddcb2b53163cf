"""Training sets: from events and slates to requests with candidates, features and labels.

building     a set on disk, in bounded memory, by workers
labels       what came of an impression, once its window is closed
requests     the moments at which a feed could have been read
impressions  the requests that were really shown
splits       which part of the history teaches what
replay       what the service knew at each request, by the reducers that serve
home_feeds   what a user's own feed holds, from events alone
dataset      the set in memory; files: the set as Parquet
tasks        what a worker does for a set; shelf: arrays that workers share
"""
