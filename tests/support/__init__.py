"""What several tests share: fixtures, worlds, stand-ins and drivers."""
