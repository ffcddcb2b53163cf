# cython: language_level=3
# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Rows through packed trees, sixteen at a time; `ranking.scorers.forest` packs and checks them.

Nothing is checked here: a node that points elsewhere reads elsewhere.
"""

from libc.math cimport INFINITY
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc

cdef enum:
    LANES = 16  # rows in step; `ranking.scorers.forest` has it too

cdef struct Node:
    float threshold
    uint16_t column
    uint16_t child


def walk(
    const Node[::1] nodes,
    const float[::1] leaves,
    const uint32_t[::1] roots,
    const uint8_t[::1] depths,
    float base,
    const float[:, ::1] rows,
    float[::1] margins,
):
    """Write what the trees add up to, row by row, into `margins`, without the interpreter's lock."""
    cdef Py_ssize_t columns = rows.shape[1], count = rows.shape[0], at = 0
    cdef float* block = <float*> malloc(2 * columns * LANES * sizeof(float))
    if block == NULL:
        raise MemoryError
    with nogil:
        while at < count:
            _fill(block, &rows[at, 0], columns, min(count - at, LANES))
            _add(
                &nodes[0], &leaves[0], &roots[0], &depths[0], roots.shape[0], base, block,
                &margins[at], min(count - at, LANES),
            )
            at += LANES
        free(block)


cdef void _fill(
    float* block, const float* rows, Py_ssize_t columns, Py_ssize_t count
) noexcept nogil:
    """Each column of a block's rows twice: as it is, and with what is missing below all else.

    What is missing is less than no threshold in the first, so it goes right there, and left in the
    second. Lanes without a row repeat the last.
    """
    cdef Py_ssize_t lane, column
    cdef const float* row
    cdef float value
    for lane in range(LANES):
        row = rows + min(lane, count - 1) * columns
        for column in range(columns):
            value = row[column]
            block[2 * column * LANES + lane] = value
            block[(2 * column + 1) * LANES + lane] = -INFINITY if value != value else value


cdef void _add(
    const Node* nodes,
    const float* leaves,
    const uint32_t* roots,
    const uint8_t* depths,
    Py_ssize_t trees,
    float base,
    const float* block,
    float* margins,
    Py_ssize_t count,
) noexcept nogil:
    """The sums of a block, in the order of the trees, as XGBoost adds them."""
    cdef uint32_t[LANES] places
    cdef float[LANES] sums
    cdef Py_ssize_t tree
    cdef int level, lane
    cdef const Node* root
    cdef Node node
    for lane in range(LANES):
        sums[lane] = base
    for tree in range(trees):
        root = nodes + roots[tree]
        for lane in range(LANES):
            places[lane] = 0
        for level in range(depths[tree]):
            for lane in range(LANES):
                node = root[places[lane]]
                places[lane] = node.child + (not block[node.column + lane] < node.threshold)
        for lane in range(LANES):
            sums[lane] += leaves[roots[tree] + places[lane]]
    for lane in range(<int> count):
        margins[lane] = sums[lane]
