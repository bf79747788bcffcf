"""The codebooks of the IQ formats, as ggml defines them.

An IQ3 codebook is a sorted set of 12-bit codes, four levels of 3 bits each (the first in the lowest bits). It is kept
here as the 4096-bit map of which codes are in the set.
"""
import base64

import numpy as np
from numpy.typing import NDArray

_IQ3_XXS = (
    "6^aD{1ONai3I!qs0uTTJ6#@l{0D=G@f(0M|0000100;np5P$$Ef&c&n00aO40000W000mG08sz{2mk^A3Iz%kfB^si1p);C000003IzfI00"
    "0041pom8Kmb4hA^-pY00961000pHKmY&&AOHXW00000000C40RR911qww11ONa4Dg^=o004*q1%d^D0U!VX0ucZJ0000H0000W00;m82mpW"
    "p0ssII00000000003P1n=AOHXW0tE^H00AHb1pom8Pyhe`3IQMh00aO800ICA0000000001fB*mlK>!2*03ZMW01yB`000O800008000315"
    "P$%n0Ehqp000000000G0004i0RTY&fB*mhAOHXW5C8xG00IyI001BW2mk;90000000000AO!#c0000000aO40ssI3K>$Di03ZMW01yBK000"
    "041ONa400;m800D>q000041ONa6000000000000961000mG1ONa4000mGPyi4B00062000620Du4h000mG0000%00000000005C8xGAOHXW"
    "00aO400008000002mk^A00000r~v>300aO4002M$0RR9100aO4AOrva0U!Vf00031000620ssI21pp8L0000000001000000000000000"
)

_IQ3_S = (
    "r&l8gr3wX-7bA%x5C9?sqe&tWqzV8D2qFba5CwoD0f-U=2?78C6aYmCq5wb$Knef?00aO66#zvD01*HH7pnzQ08j!1OA!JI0tEm;0i+QG2_"
    "OLkk_mzl0ssU7C=>t+L=gZ00to^I00IC2005ByPyhe`3Izfn0ssU7t5u2xDg}Tk1&JgQ1Ofm6k^l;U0*C+-B?1%*1OY$*f&d950ssIc5CQ~"
    "%0SEvAg#ZEo03ZSYAOb)E2mt^91gZoolmZ9>Di8_)0RRC+0R#aQ009610uhP<iXZ?82tot`00a>L0tFxh5I_J306+i$0ssI23IGKl000005"
    "d@J00s#O4gbD;92qFLg3Lydr0e}Pn5DEn%000001pp9$0RR93pa22@000C400;mO0003103iSY2m$~A1Q7%Pkpw^xDg*)q000040Rjj?00;"
    "m8gaLp65CR|w5&!`NKmY&$00ck)015yA000001ONa46aWMO0000004e|q000310RVvj000mG00aOK1Rw+f0T2QJ0RR91001BW2mk~C2><{P"
    "00031AOHXW0RR91015yA00000kpKli0T2WL1OgBMC;$Ke5<vn100IC21ONae00;m8A_xHh00961000C41ONa41ONa6000000RR9100000"
)


def _codebook(bitmap: str, levels: tuple[int, ...]) -> NDArray[np.int8]:
    """[entries, 4] magnitudes, in the order of their codes."""
    present = np.unpackbits(np.frombuffer(base64.b85decode(bitmap), np.uint8), bitorder="little")
    digits = np.flatnonzero(present)[:, None] >> np.array([0, 3, 6, 9]) & 7
    grid: NDArray[np.int8] = np.array(levels, np.int8)[digits]
    return grid


IQ3_XXS_GRID = _codebook(_IQ3_XXS, (4, 12, 20, 28, 36, 44, 52, 62))  # [256, 4]
IQ3_S_GRID = _codebook(_IQ3_S, (1, 3, 5, 7, 9, 11, 13, 15))  # [512, 4]

# IQ4_NL and IQ4_XS: the 16 values of a nibble, denser around zero.
IQ4_LEVELS = np.array((-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113), np.int8)

# IQ3_XXS stores 7 of a run's 8 signs; the last one makes the number of minus signs even.
_SEVEN = np.arange(128, dtype=np.uint8)
EVEN_SIGNS = _SEVEN | np.bitwise_xor.reduce(np.unpackbits(_SEVEN[:, None], axis=1), axis=1) << np.uint8(7)  # [128]
