"""Examples of what can be added to FairFAL without touching its package."""
