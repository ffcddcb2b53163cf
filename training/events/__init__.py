"""Exported events: reading them, as columns, by whom they were made known, and made up.

log           Parquet files by tenant and day, and the manifest that counts them
columns       the log as columns: names are numbers
fingerprints  what something was made from, in 32 digits
synthetic     a made-up log of any size, to measure with
"""
