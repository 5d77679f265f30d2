"""What is timed of a training step, and the report of a size as Markdown."""

from typing import NamedTuple

PYTORCH = 'pytorch'
MATRIX = 2048  # side of the square product that is the yardstick


class Form(NamedTuple):
    """A step that is timed."""

    title: str
    by_turns: bool = False  # its time depends on the site, each of which has its turn: means, not medians


FORMS = {
    'largest': Form('largest, forward + backward'),
    'smallest': Form('smallest, forward + backward'),
    'update': Form('update alone'),
    'masked': Form('sandwich, one site mutated per example (masks)'),
    'segments': Form('sandwich, one site mutated per step (shared segments)', by_turns=True),
    PYTORCH: Form('sandwich in PyTorch, all three networks by masks'),
}
PARTS = ['smallest', 'update']  # of a sandwich step, besides the largest and the random network


def write(options, size, timed, alone):
    """Print the report of a size, as Markdown."""
    rate, batch = timed['rate'], timed['batch']
    print(f'### {options.network}, {size}x{size}, batch {batch}, {options.dtype}\n')
    print(
        f'{timed["device"]}, JAX {timed["jax"]}. Matrix product {MATRIX}^3: {rate / 1e9:.0f} GFLOP/s;',
        end=' ',
    )
    print(f'largest network forward + backward: {timed["flops"] / 1e9:.1f} GFLOP a step.\n')
    stated = '' if options.peak_tflops is None else ' fraction of the stated peak |'
    print(
        f'| step | ms | images/s | of the matrix rate |{stated} relative to largest | compile s | peak MiB |'
    )
    print('|---|---:|---:|---:|---:|---:|---:|' + '---:|' * bool(stated))
    for form in options.forms:
        ms, is_largest = timed['ms'][form], form == 'largest'
        share = f'{100 * timed["fraction"]:.0f} %' if is_largest else ''
        peak = ''
        if stated:
            peak = f' {timed["flops"] / ms / options.peak_tflops / 1e7:.1f} % |' if is_largest else ' |'
        seconds = alone[form]['compile_s']
        compilation = '' if seconds is None else f'{seconds:.1f}'
        costs = f'{timed["relative"][form]:.2f} | {compilation} | {alone[form]["peak_mib"]:.0f} |'
        print(f'| {FORMS[form].title} | {ms:.1f} | {1e3 * batch / ms:.1f} | {share} |{peak} {costs}')
    print('\n| part of the largest network | share of its time | ms |\n|---|---:|---:|')
    for part, share in timed['parts'].items():
        print(f'| {part} | {100 * share:.0f} % | {share * timed["ms"]["largest"]:.1f} |')
    parts = [timed['relative'][form] for form in PARTS]
    print(
        f'\nA sandwich step that does nothing but its parts: 1 (largest) + {timed["after"]:.2f} (random, from its '
        f'site on) + {parts[0]:.2f} (smallest) + {parts[1]:.2f} (update) = {1 + timed["after"] + sum(parts):.2f} '
        'times the largest.\n',
        flush=True,
    )
