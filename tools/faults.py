"""Wrong numbers, planted: a guard that lets one pass guards nothing.

A chapter's cells assert what its sentences say. After the notebook has run, each assertion below runs once more on a
number that is wrong by as much as a reader would mind, and has to fail.
"""

FAULTS = {  # chapter: (an assertion of the chapter, by how it begins; what is planted before it)
    "01_condensation": [
        ("assert 4.5 < sigma_a", "sigma_a = sigma_a / 2"),
        ("assert leads[1].low > 0.05", "leads[1], leads[10] = leads[10], leads[1]"),
    ],
    "02_mmd": [
        ("assert own.min() > 0.8", 'own = p_values["S moved to 20, fresh points"]'),
        ("assert max(wide.max(), warm.max(), right_shares.max())", "wide = stuck"),
    ],
    "03_random_embeddings": [
        ("assert single[1:3].min() > pixels", "single = pixels + (single - pixels) / 2"),
        ('assert judged["a new one every time"][-1] < judged',
         "judged = dict(zip(judged, reversed(judged.values()), strict=True))"),
    ],
    "04_dataset_distillation": [
        ("assert learned > by_random + 0.1", "learned, by_random = by_random, learned"),
        ("assert means[0] > means[1] + 10", "means[1] = (means[0] + means[1]) / 2"),
    ],
    "05_gradient_matching": [
        ('assert score["DC, from noise"].mean > random_ten', 'score["DC, from noise"] = score["ten random digits"]'),
        ("assert squared[0] > 0.999 and", "squared, whole = whole, squared"),
    ],
    "06_siamese_augmentation": [
        ("assert noise[False] > 2 * noise[True]", "noise[True], noise[False] = noise[False], noise[True]"),
        ('assert min(ratio["crop"], ratio["cutout"]) > 1.5', 'ratio["crop"] = ratio["scale"]'),
    ],
    "07_distribution_matching": [
        ("assert after.mean > before.mean", "before, after = after, before"),
        ("assert abs(apart - floor)", "floor = 2 * floor"),
    ],
    "08_full_algorithm": [
        ("assert V_x1 < 0.7 * V_x0 and", "V_x1, V_x0 = V_x0, V_x1"),
        ("assert round(total) == 19", "batch_first = total / batch_first"),
    ],
    "09_results": [
        ("assert [round(x, 1) for x in by_network]", "by_network.reverse()"),
        ("assert r[0] < 0.15", "r.reverse()"),
    ],
    "10_elsewhere": [
        ('assert 0.09 < gains[10, "DM", "Herding"]', 'gains[10, "DM", "Herding"] = gains[10, "Herding", "Random"]'),
        ('assert own["DSA"] - learned["DSA"] >', 'own["DSA"] = (own["DSA"] + learned["DSA"]) / 2'),
    ],
    "11_beyond": [
        ("assert 0.02 < after - before", "after = before"),
        ('assert 0.14 < gains["DM", "+ decoding"].mean',
         'gains["DM", "+ decoding"] = gains["Random tiles", "+ decoding"]'),
    ],
    "12_own_images": [
        ('assert abs(means["DSA"][1] - means["Random"][1])',
         'means["DSA"][1] = (means["DSA"][0] + means["DSA"][1]) / 2'),
        ("assert scores[0] + 0.05 < min(", "scores[0], scores[2] = scores[2], scores[0]"),
    ],
    "13_uses": [
        ("assert kept[0] > 95 and kept[-1]", "kept[-1] = kept[-1] - 20"),
        ("assert [round(x, 1) for x in lead.values()]", 'lead["mlp"] = lead["mlp"] / 2'),
    ],
}


def planted(chapter, cells):
    """Code that passes where a chapter's assertion notices the number planted before it."""
    code = [line for cell in cells if cell.cell_type == "code" for line in cell.source.splitlines()]
    for start, fault in FAULTS.get(chapter, ()):
        found = [line.strip() for line in code if line.strip().startswith(start)]
        if len(found) != 1:
            raise ValueError(f"{chapter} must have one line that begins with {start!r}; it has {len(found)}")
        yield f"{fault}\ntry:\n    {found[0]}\nexcept AssertionError:\n    pass\nelse:\n" \
              f"    raise AssertionError({f'{found[0]} lets {fault} pass'!r})\n"
