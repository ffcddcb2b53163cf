"""What `headwater bench train` and `bench point_in_time` measure."""
