"""Wrong numbers, planted: a guard that lets one pass guards nothing.

A chapter's cells assert what its sentences say. After the notebook has run, each assertion below runs once more on a
number that is wrong by as much as a reader would mind, and has to fail.
"""

FAULTS = {  # chapter: (an assertion of the chapter, by how it begins; what is planted before it)
    "01_ten_images": [
        ("assert after > before + 0.15", "before, after = after, before"),
        ("assert of_chosen.interval[1] < of_learned", "of_learned = of_chosen"),
    ],
    "02_mmd": [
        ("assert snapped[3] > 1.5", "snapped = herded_worth"),
        ('assert float(errors["with wide"].max())', 'errors["with wide"] = errors["narrow"]'),
    ],
    "03_random_embeddings": [
        ("assert min(singles) > pixels", "singles = [pixels + (s - pixels) / 2 for s in singles]"),
        ('assert judged["new ones"][-1] < judged',
         "judged = dict(zip(judged, reversed(judged.values()), strict=True))"),
    ],
    "04_siamese_augmentation": [
        ("assert likeness(one_coin, four) > 0.85", "one_coin, two_coins = two_coins, one_coin"),
        ("assert loss.low > 0", "loss = gain"),
        ("assert training ==", "training[10] = training[1]"),
    ],
    "05_distribution_matching": [
        ("assert 0.4 < one.mean < 0.56", "ours = one"),
        ("assert sum(nearer) >= 6", "nearer[EIGHT] = False"),
        ('assert [f"{v:.1f}" for v in frozen.values()]', 'frozen["chosen", "last"] = 82.0'),
    ],
    "06_full_algorithm": [
        ("assert 0.9 < forward_real / a_step", "a_step = forward_real"),
        ("assert marks[1] > marks[0] + 0.1", "marks = marks.flip(0)"),
    ],
    "07_dataset_distillation": [
        ("assert sum(learned) / JUDGES > sum(plain)", "learned, plain = plain, learned"),
        ("assert sum(own) / 4 > sum(others)", "own = [sum(others) / len(others)] * 4"),
    ],
    "08_gradient_matching": [
        ('assert end["DC"] < end["random"] - 0.05', 'end["DC"], end["random"] = end["random"], end["DC"]'),
        ("assert whole.max() < 0.5 and last.min() > 0.85", "whole = last"),
    ],
    "09_fair_comparison": [
        ("assert 4.5 < sigma_a", "sigma_a = sigma_a / 2"),
        ("assert 0.28 < pooled[20] < 0.36", "pooled = honest"),
    ],
    "10_digits_and_photographs": [
        ('assert {key: f"{100 * g.mean:.1f}"', 'less_random[1, "DC"] = less_random[1, "DSA"]'),
        ('assert abs(d["random, 10"] - d["all real"]) < 2', 'p["random, 10"] = p["all real"]'),
        ("assert abs(given.mean - learned.mean) < 0.03", 'given = trained("random, 10", "last")'),
    ],
    "11_inside": [
        ("assert [round(share, 2) for _, share in moved", "moved = {1: moved[10], 10: moved[1]}"),
        ('assert of_real["DSA"] - of_set["DSA"] >', 'of_real["DSA"] = (of_real["DSA"] + of_set["DSA"]) / 2'),
        ("assert in_table == expected", 'in_table["without its wave"] = in_table["the lattice"]'),
    ],
    "12_beyond": [
        ("assert small - one > 0.1", "small = one"),
        ("assert control.low > 0.12", "control = step"),
    ],
    "13_own_images": [
        ('assert means["All"] < 50', "means = dict(zip(means, reversed(means.values()), strict=True))"),
        ("assert score[0] + 0.05 < min(", "score[0], score[1] = score[1], score[0]"),
    ],
    "14_pretrained": [
        ("assert sum(real_start[1:]) > sum(clouds", "clouds = real_start"),
        ("assert alone[3] < 0.45 and", "summed[3] = alone[3]"),
        ("assert learned.mean > 0.9 * vectors.mean", "learned = random"),
    ],
    "15_uses": [
        ("assert max(attacked) < 0.54", "attacked = [0.6]"),
        ("assert 1.8 < t_all[3] < 2.4", "all_read = [x - 10 for x in all_read]"),
        ("assert 2 < price[None].mean() - price[1.0].mean()", "price[1.0] = price[None]"),
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
