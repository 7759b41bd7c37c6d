from sdqn_lab.agents.seeding import stream, stream_seed


def test_the_same_name_gives_the_same_stream():
    assert stream(7, "explore").random(5).tolist() == stream(7, "explore").random(5).tolist()


def test_name_index_and_seed_each_change_the_stream():
    seeds = {
        stream_seed(0, "env"),
        stream_seed(0, "env", 1),
        stream_seed(1, "env"),
        stream_seed(0, "replay"),
    }
    assert len(seeds) == 4


def test_seeds_fit_the_emulators_signed_integer():
    assert all(0 <= stream_seed(seed, "env", seed) < 2**31 for seed in range(1000))
