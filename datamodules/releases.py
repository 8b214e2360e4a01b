"""What tells the official releases from other copies of them; no text of theirs.

:meth:`Release.of` made each of these from files whose checksums hold.
"""

from __future__ import annotations

from dataclasses import replace

from erc_bench.corpus.release import Release

MELD_REPOSITORY = (
    "https://raw.githubusercontent.com/declare-lab/MELD/2d2011b409d3ca2d7e94460cd007d434b1d0a102"
)

MELD = Release(
    digest="d64e9f64f0fa363fdfaf5655364766d542bc2cd52ade07ce1945d98362e97c83",
    ids="2ecc2640be731053122b0a550b87aeb31d889e047b0977576a255f453d92b33b",
    labels="ad134ecd419655702e2700638df220376c5e6c7efe6b635084591c9bfdd8419b",
    classes=(1607, 361, 358, 2308, 6436, 1002, 1636),
    speakers="b37f7c453e3381e5e2e62288ad0fdb0009ce0051dcfa56e8b6567b20dda7a749",
    dialogues=(
        "+dFFdgiKfjMoHRU2Iuy0RqZ3wOkSfQkKru9H9pzhwz94BzQvOkY7mKHeXLEDgvIyMwFNhoiWGim4Dang3vsSOOdD"
        "U56ns9ZRTyD9xL6x5/kfbjzi4EgJ8MZgq/VX08qXtJ9tDylROPVVVP48vrABdl+mRCKP3dMeuyj8D6gBvXDbOxOn"
        "igSfCucDIevRq+lDi4xUHY9Dm6yNVjI4ND9eDWxvS1or+vSNqLfE7ctOfbMNjWMaO4Caid1qZKnTWjdryntwGKiD"
        "PEsQMzlQxHhBkJ7cunUSvp9NBX5xUKQl5e+3XBgTulZGLy5wmY6CSQfXx5K+favDSI1cXKd5mfi9Fvy5SRYmtXYs"
        "/SUs8g9PbBpY6bf6nAhGY/cQjGgyDmwqsHD91pSRvYZAMKIAllYYlz8f+VHOF92Gxi7bNEw+BWg4eC8w0Q+WmO+A"
        "x/c8L25fdd7ALuZv/RL5dRIuEKLAHzjRZaZLDNTyc+8HR+BJW3djVKj6y2FV8sGipgEp/vFwFplfPtR3iPFtoI9r"
        "croupGGh6qA5zqHd4aJ8hvgEzc+9k6JY5LfBhlpy4hHLEDamhXMQOvZ/F37yEdAntuSCj9L0EjdM3AdeHkvzk8CD"
        "EaR+eBVGFyTRBUCLPCV51wEZ4qTlJqpZ7V8rNgPz2rdB9v4QIAVziEi1PFnCjlAcvTzc/7qD9/1qLP/b/0Dh46m8"
        "awHdEMy0AnEUicd/hrVuZvLaM8w7gt78CUX+43lqbLN8rx/rUgubeIvX24djQvpIO98GP4uqNoJpE/PqXWjkgKQ2"
        "XXrRw4/39/B1wMtm89tMsc0Kns93XFASS85XGyTKwpE7DREoyfgRFmNq053dVaaT1NygKhaE+KWkiMBuvRhxxMR+"
        "ED99JW+2phg2szXVs3phs+lop5Rwm3Xoc4z/UNlY6571sJmbphPEuvS5+xS58/293GkwOgrThnYN87xAntWaLwIo"
        "JomZ0467p2Smu+Owslkk1bbx+Wksbw3C42q5abh1NJhUDtzChvOEOxrGi+LkhTUKyByRp+tILPLzemJqrGF0BZiK"
        "ZH2tSpW2LHhRnClwrkKL3gRM1HDgsgsS6pybDPzHQxQQ6YbEkhc4/WBxDpL5lsA8eA6NB83yJyySy1md+27gDz9s"
        "ZrFVxyo57XVtslMv/SflhzNQ+93wtHfAP1TpxjLAr0DtflIKm1qwPejv13g20QWeKux07K699Xr9O5HrqKfChAoc"
        "Ir9m4LPfOREaI/ayjRVjh9lxky/owrUPrqieq2XaI9ggmU6NEa/OfOxOdMSb6wleezH7TqADboFnvQdi6ptwZIfR"
        "oXJ2vGBjEtPZci1ZgV+Mw0Ql+wElC6rZ3Eu0X2QmNxigAL1g2mK5dXzu5pVYpOXihkdCzSp8SKpDOz1VzysVY0hy"
        "sD49ECTDSwwy6osPICRp/bb3+lJv9qcP0lp37BK3faJG59kF+L9X9TnZgwcH3xG/NcMb9wI/OXPki2EKDTUeGeMz"
        "xsLm8BI2l+SmpVphgxZYHNTNAJiqicOSjHJNEafXXwavku/R59nsCrZ7zu3T1PePlynJpsBORQZ3HAq1v0SkaRn1"
        "owvcNiiXga0NzgQua1Pq6k+hlYItUxCzK27xD0AnOqzh7Abm3f0dtCcm61pThNsCTL9jzwVXGBqjdV5CPTEUX61n"
        "jek9+ulgW0M2hf7laHLeqxLnL3kmYIMEaP1vKugmSk/zPNCXQdD4lBrsO9gyqjY2gHbZWhm9UzAwhVXw7zWC+99R"
        "bmgiIX+TDnFMBn9O83q8XM8JT8cKlPttZyc0NOGpfDK+oQmFr8zCNLuqUC8n+JZkka+Fj2xGBCVRNPs7k6AHINHB"
        "BgO3PvZB1Q3sfRxFAzyblwJXv4aCCpOAmlKlz7U4oIb/e84WOOxRmvoebXGqfzDFkDsEquOJ7t/dNmblh8bndUon"
        "XNsflf0RiPJH2jVXJOn3Ntv8ryX6TU6tWZtNi7cgttYgpuLTK3NlhzR1c9YcLd59tcYkC+NyHXlQs8c3v/zFOsxQ"
        "VJSKanqDlBxNAUx6EVnYu27zUlE/aApSaUCgyZDUG43k/zKDJiTsu0CItCeLEUSTWC6NOq8EjJcAHcYGWHZIAf3I"
        "TCQSvKhuWNf+iEgto2Fjju6yDf0RF7tJdTnXW0TfVcjsX2GF8htSkBDixtPfTDsOps33za92lFJ2lEPIWEMxmBwF"
        "FFeL0AFBDoEnF2vZ4yM3VAzq1z8zCEpTkCexBWTTK7axMY5Vd1k6U0TODNu9Zk7k5+MTJfiA7eGQuAlTcYhQzzQ9"
        "V0TEv/0OulLfzi3XcRuUtyfXURVDb7rk8+hSQFSnbC1kup3PZhS7E55QA1ZzJN6o3aCaLdFanoGttMdfGGHJInxZ"
        "tgVwS8esYa2dzPXo3iSPGzY4dm2PeQ1kLCUwMYTA6nq6yHutxz4kVpjaiICsDEX/LqbOeu4su7ue+ZYpDaqDU0U1"
        "Q/66LNKh7mKE2/7zpMo532k2RrGGEIAFiuptg5BApySC99UhjzfZaVKeT0FnkqMvInfP4RlyAKa5IRAxSEi3cOyn"
        "DByYICHuTaPO8R4sBQNpCyJ8UcWNH5nr+2zcx7MYEI9Q21y8HH47/0hfaJUK5PNfE3+cBiFUThzznls544bDZWKc"
        "32fsep+tWU/pc7m22+dbi0j7DBi5Bx6Lz1sk71Dzojl9whkEG8HOo51S6SVtSzTYY/vVdZimW9n17WiZ7Gv6bELS"
        "J/6vDY/lDICGNswWcFEXYxur+SulaUcyIxY5VZ91rkzdjBLDqlf7+6gYrjJaUIZPRuYtWBmu89yga/Kj+Yy4FQrc"
        "sgP6zc4AayAucdC1tvvYbxGsPp5IE0W+mHJ9F3so+Gh9IPxr0aKRWULtQQWBj1jGCYYyliN4ufBCJpTjfAhGFJ8Z"
        "QttYFhIi+R1zWJ71vhjdf30xhQUOll8junWljxkKPi82dkMndK2p8j46Oe8EXjkAh9ItnLcv7kyzVDOHASo/z3TJ"
        "OHMqZHxounHVd8LbQ9AwfgSV+5pChEvIlmI0TEkfN/QTdcvO75UBXnNyq5Vtpu/yYtccoaSZXS8glUPozPq/qkIg"
        "DFQjrbzgrWmLPwG6cTcx6YGdBFG4ALpwxbLt4U8Oc5aYDcaVcSs8CR7fRij6rFJJk7KEq9vMAa2LyoGlmhWFCyEi"
        "dUv1XEylrdaLlzOEvsdXNzjieVYLfKKzPNJnBxvxfI/PYFUa48m0FoVR57FgTN4TjIbetWigO5hGbKnDwtaICSWa"
        "eL0Ls+SAGpZjpF3hfnMxu4LfA9uuNVgi+Bn9dXsjqoU/4ufg7Heb/g+o7pzYgHQRIn1mtSe14G3/x1i7z+Q4I2bA"
        "G1bY0ARIbMic9P+G4QL9fbn2NjPQ5gia1LyPHhjPYv2xC1O6Gs8FSAIZQ9y/6+DMOPEKgsZx1eYUXYBpKNzHcPiQ"
        "20CbbEHsvewZ7yfrzq/D9Tal7xLbFm7PvUpzWOhD39PevLnGdlpMnctd4DfDnDugnBqTlk4MUMqLrgD0G4j4p4+F"
        "3vNmY/yYTO4PNVb6ycld+qwje3+zMKkE8EBQfQM2/Tu62BpIqkxYqUpj+qkGJ6Z+Xoo5puetpMhyDP+KlHso1pa8"
        "RyjgYSMUVIHTeCbKEDQH6uOYvbUioZZr9li9ThI2XU+2OJ0pC0VJ/5XpMNURmS/rmvhqfXQnFre1TuTJ6bm0ymG6"
        "NvvvojC1kfvGUBJN1ANMuM5t3MyfbeyXW1OuWgN6clwU/Fn5lf8/pktOWR4mJXhlU5C23G/ufoa8nNDNBaEXEjBg"
        "JSUD5l9HaMP3ZlZDvNcmMFzS+mkVyaJkmnI="
    ),
)
# The same dialogues with other labels.
MELD_SENTIMENT = replace(
    MELD,
    digest="bb4028b53f96d6a902313f195f78d06684579cb8db735ed9073e9b8bc30fdd98",
    labels="7922ab52e9d63987eec5fd89ff775c6f1c9756c2e7a42995231e79227f8991da",
    classes=(4184, 6436, 3088),
)

EMORYNLP = Release(
    digest="6b519bb5b7ae292d7536df9e7a1be888dc37574801c072d392c182ebd20a1adb",
    ids="44a2a2944749cfeada3ed941da24230e2cb7f26f0b353fdc4f77fa9026cfc983",
    labels="88c4f52a04197490ef2144606be9c73eec977e4a23d76aeff5e2136593aa7407",
    classes=(2755, 1332, 3776, 1191, 1063, 844, 1645),
    speakers="e61276c1a1abc082f98b63f1647467eaea64bc6f04ac114083b63bbb447fe39f",
    dialogues=(
        "Uo87bhb9Nll0rKFdRdYJPPVQLBFcI68WEkrimqvOWfms5LDFdrHE71LWgjOp8iUQPVULPqrIz8IH3rmk8qMX9Qqw"
        "3Gu/hllg6urPn36zPWKopeYYqyaU+YJymXiDai69mqC1YzFgu6pkme82OjeILfqFHufS28ZQyH6WcfKYlWSEe5fe"
        "71IuA1oL0mqYiCrORlmXp4oBHXr/42KfC5TTeQQbvYZBIFhnxB5uaPlnHoumbzv/OAmr4Qr9cv6Md3i6lL5bM1PG"
        "lgKz317qD4MuQYIKjrWAuu9+AUFbXebGd5sMUvfN4aLXmrVEGnEnUqXqfXzoHMYocI+WKglW4tE7542i7B70DE+L"
        "M7U4+Rg37FjlRyeLfiXr3j6CFouQGuXckdKsbh0uBKIT8sm90M3zildCe3eqe427gS6m+YS30NQMRDESVC6gY+Ju"
        "u4PvbktOeb1ifOkv680fLba/r8TFlDLAUQcDF8hKsAbvvSmkBgAdxcwh0No20dfu1kveJHui1itZO5enuajL9UaZ"
        "/b6wmn4Qbwbn/4GD35livqy8iDMunHpedskk64IRj4UjFDmYk0TbjsU4qPWhe4Cmob1UQ0r9TJC8QGAaEJVcPd+6"
        "owshsUDwvxRt8674tq9zjQvz/C5uQNfU6irXEylKfGDEYBrdC6AkCxLQ6nqveFHJKHCsPmKSqzfvGJiCRlud3OWF"
        "Is2kwZ8JoG434ABvolnE+DOXhvNPLCOenUc1SvAZUZ0fCEfOmse1u5H0uLjumw2JLdnjh3uEjzaG/v+d4SSXQs0+"
        "j+RkTbeZz6uDPV/d9xJ+PVlsa3NA6Q4gIC5cwehWm++k/QnL4/xjtEIj0Gnf2CoJ1S110TirlOXi3dqQkYPksRNd"
        "oXD9h9cSio71V5Wqduq0lFYHMTv+VpWV5Ul2zx95s6Zq4n5M2dXWnevaYZErkAkSZVgEXR72qogi1VnZCAwYgTiX"
        "HEQ9E046VG1Plfz2Qkma9QGt/QKSQDaKPDBPrvdQTreYpjHF2WsjLQ+T/rhwudsrGLWe1SlGS9P4d51S9i+vE7Yu"
        "z9Q365C1Nb46uo/PKj6EJF8cxLooQK8ieu0YItDy0rOcAhuRnvm6n7pWpn6PHqvwrj0pwiOccpKlkQvI7aleiF+1"
        "TbjvjXrvf3qFCVumryBUvUa1PTrlsEOAg3tTXMZyMP79bFiQkjvmaobPAWQQFLsrQqYelBLu0u95I5QerlHjhtsY"
        "RA6sw50qEP2YqGDlUm3plzRCF+Ewi0yxR7UfvDlyYiJzEVZHo9IOccmur4T6cfGVLBmr+Qkrzo9xmKfjqqzYCGcQ"
        "ufDk/hyQfGdzT+UtHdcSOq10tj2ZCv8vkAZYip5u9GF4abEWgZcPCzGfwWtJrYeuF/K83+yVxAz3mOT/NXuxP/Po"
        "7lCJiUPDDA/dpnkerUWwQ7EuU0ljS4Dl4sEisN1tJnGiayD619LCeNROH4fweucGBMbz5DFa2W14B535JHfxFw2f"
        "c+uTo4mV8pjy7n6WVD9qPeF0cpolbOcdwK6x3ImD+3PlFr3Rdrl89XtN4EmbLNvAD61oRuxzoMVD904BHwk7FPdb"
        "HKpPtK8bq47xoh3/ZBG/5mMDHhA0EiQeP/DBlbQcgtdp/foRcwv6iSNsUmoCiX8K1TwWdSm0/wHk8Nw/R+egwRsU"
        "5vAisrbQG4haPvHYnn4a4qsaYHgl9P/WpcyGrRJV5LyVI9v/OZ73HDmrYZn8HtHaPZczfXpQT5ZiMNfsz0i/kNWE"
        "McYgqvu7gTGorbOcfFgL5CkwVnYiXcsnOFWrYkXR16DXOqT9wVuE7CKagwsQpn62DBtW5DyDNFIodoFkExWwb3KS"
        "ekjYre3eIqufJJMv01jw+u9e0MAFR3lESJifZmAmE7zSVAQFzLl/tR84jrDD+Lgc3ZVZkRh103hzZXKB6szm+bUD"
        "d5fH6fyXROvThevMCJRxU/4Af3Yfv5h1Y/vU44gqXmVAeWGI1ARtaWC7VcIALUgud+xJayyEE07K+iyoxhUvzhc/"
        "q021gc/kdNDU3vWwbQT3wWp3KoqGlby/gWcnVgFTAVOE6DVd/HEiyY/O14Mfroj+mYHr0Dnf/iFX7tYci2F2Nf2H"
        "DHPhEdUh7g7tNU5L7+CglflZU74G6Z0Y/8bZO6pazKn2feus/UetjmRsvShmFwK9Bw1Vc3zXwNLhNnDkWGGrx/GC"
        "INT0ZjPcoSMgej2YOVG8KRRixQRk1gPhvtRgI8Zn4mSY7+cdtJleQmUVRXtZxrQTCbTPBV9HMHri4go1wM/Ba0LY"
        "Ty1eI0hyMSAzNc12GKCeq0SrI0uyse1azO0h65ewtMmlQz4dovoYYBrR9trNL1Qph2fxKTMNsd/KSXtz95zGS0/I"
        "D0KkNu54hGQFlwtp"
    ),
)

EMORYNLP_REDUCED = Release(
    digest="d62ed31778cd328650f974f87f6567c0092c1b4d996007612e407cd1d3a0101c",
    ids="fdf866206b83cd35b34c3f609eb19c98dc22cb687962f1d91638dea103c0709a",
    labels="ded3d6fd10a1ab2af4ee8b86c2723e760d78c91ba8cf8a99c825a15dcd4b2bd5",
    classes=(2099, 968, 3095, 831, 717, 595, 1184),
    speakers="d9c10dc5fb682f458c9b98369d9028578bb3009f1bca03061a58881c99bb276f",
    dialogues=(
        "Uo+jsBb9NlnJlKFdKLYFqNcTLBFcI8mKEkrimqvOWfmV1bDF7jPJj5rjne2p8iUQUs+Z4Allz8IH3v/O8qOV6Suv"
        "lBC/hllgfsGbsMyqdFyopQmF/1PdU+SNLdyDai69Uh+1YzFgu6pkmVlSOjcfYQbZHrNIP1j07zr6kBx4qPoedkVx"
        "JqBANkImKs7kjnt5HowTef/jYp+K0yZcoEmX1EEgVx8egniSttFCi31DQNRy/qeQ4YmyHwl9K22Fx7PfJVrxnoyc"
        "ipEJg1WEQOdmffMYpep9fPHutxtBIYTnypTi0UzujaJ5aup9L/+zFDj5Y1ePYuVHvRhCtz9E0+YWi5Aa5dxI+Qxf"
        "OGu+zhPytXTQzQqNR3sz/O7Z1wQ9f65ChLe74QxEd41ULpTrLsu7g+9u5aREtqITMqqsAzXyksx40nMxs7UefAah"
        "eJT7TmpS7BzUJ25HFgiGu2AB+SWANEMjXdG0wEp9Uc+HWTAQJ6VR9X/QGBx/sOHAtz3kRzs9zJkjFDmYXfaJR8aj"
        "qPUyNjUaEPIf4PaC6KG8QGAhY9pUfUcEd6QhsYg+9UkAOvhZ1DfmsX3j5hGa7nS8zknsVtQTDi+SCBrdHfXBJaDy"
        "6nqVnFHJbFYtN5THjKA4nsPKRlumeg0UIs0KrNNjoG4qLp+p2oKjojOXhvNPLL9gUzZbufAZIf8v6P77oSYXuSBl"
        "kPgK0A2J+ZeXiPYQH5KJypa39IBBcs0+zVZhjmURv8Wmop0oB2CjIVlseH6Rlw4g5LEaRvbazr2k/YT7rhmq/yUg"
        "cdghOB27cwvQLE69R2kL1Cur6ZR6fP6lXZVIgdBHlarrobeeHl0xO3xXfSBvojqjvrkC8WriHkaRMoawgHxhkSuQ"
        "2hEovaK1P4eqiCLVm3H5aCj/hDOQT2E9vCfbwIru/Pa+5Jr1Aa1kcJJAzuYJ/h3FEP83YXqZMcVYXyMtD5PE9XC5"
        "+RYYtZ7VfBF1jvh3nVJLWq8TL/7coUi33ZIHcq4n6Vc/4llHNk7heChAryJEXhgiVUHlYt23G5Ge+bqf95D/I48e"
        "XTJu0ynC6iZykqWRVFHtqalvb0beWIry1w9/eoUJRyeLV/QehRTLcLTOqCgECPrdB8b9AGsmFkPccx6UEu7S73kj"
        "lB7LJeOG2xh4OqzD06qxhnSOgQGAVumXuoqT+jCLTLGC937COXL+EGds+Laj0g5xIEG+QPpxLabYBJJjkV7Ajwnc"
        "8Z2qrAqx6HJt6VNsLxBazekgu1Hk6t6SjSx2yMr0s+qxFoGX9Tkxn1kN5pkO3dsrtmTslcQM95jk/zV7Gz+RTu5Q"
        "TdsahCfm3abHFa1FOTLEp0tEfydQLpb+iTiGAG+ys53dHkFoeAdErzRdJRtVF/QF/GuJldhGOIhgJVQ/V68HWylP"
        "JWyJsmiJsdyJg7vGHSCkTaCGfPXUNgQKCYLjgavCYGFwrvZasf1OAfFnRK33Wynut3FSG54nUHw59e/TvQdTRBcP"
        "1B6s5D/wwZW0HELa8Kb6Ea/foWuNIcqovCGITY64XUM+fusn3hBncbnz5tJBQebwRxFz1xuIWj5jt/afhPsihlJY"
        "JfTPYjDyrh3saf6LAhJ/8zmeBG0bvPrd8CmKyDvrhlFixtpmYjDX7JWov5BJ5PSzCMiM6dx+mizCRA0tyydZg3S4"
        "kGZoJx5jgIGohtbScY1+tkXMHLEK+l5NeU1ZsQNTeHADdNmGJcUg3Ktx299Tu8A7Zv0YwrMUw7abKQc6nwmr1h84"
        "gI7D+Lgc3ZVZkRh103hzZXKB6swH2HdJd5fxH/XBcpiH9Xo0TkGOLMT8GpKGW6TXOQJPZ4gqazqOdEAU1ATcmcGM"
        "VcIALbWJd+yCEVMBlBgjT7jp/w3qO7isydjA7SMrS2EO/YLeKLUlFfoVAfQVl5E8wgCqxEUS7qw6KwsmcEC9lt3D"
        "t0bU12VP9mLVIXrJOtMTZcFOoJUQrVO+BumMqFf21ue6HX1t9n3rrP1H7JA6BLSvYF950ADZ8b7hNrFc5QxCmFsF"
        "g2/MujPcqxB0Sz2YOVG8KRRi8S1k1qpavtRCisZnvgGY7+cdqgNxykp5c9QD2iV5Arx1XHlEe1BqWFBOJkhPLV4j"
        "CR04G81zxjBdRp6rZfYjS7Kxp+jAJiHrsAY0EahiPh0vNUW8ckf22ms9+m53rGe3D/xwJ0zr2QhEtA9CvdR3vIRk"
        "M15SIw=="
    ),
)
