import gwfbench

rows = gwfbench.run("ou:horizon=0.2", ["ula", "gaussian_vi"], seeds=2, out="runs")  # a row per seed, time and metric
print(gwfbench.leaderboard(rows)[["method", "seeds", "symkl", "tier"]])

kept = gwfbench.load("runs")  # the rows of finished runs, as pandas has them
law = gwfbench.load("ula", "ou:horizon=0.2", seed=0, out="runs")  # the last law of one run
print(law.points.shape, law.draw(1000).shape)  # points that were kept, and new ones
