"""Stand-ins for the services Clasper calls, for tests and laptops. Nothing in `clasper` or `apps` imports them."""
