"""`python -m tandem_router`."""

from tandem_router.app import main

if __name__ == "__main__":
    main()
