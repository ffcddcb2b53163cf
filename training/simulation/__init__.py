"""A community with known preferences on the whole platform: what would have done better.

    from training import simulate

    result = simulate()
    result.report.to_frame()

Names are imported when they are first used: importing this package costs nothing.
"""
