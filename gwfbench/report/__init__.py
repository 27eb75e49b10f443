"""From rows to what people read. A leaderboard is a pure function of rows."""
