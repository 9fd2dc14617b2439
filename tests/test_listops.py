from bench.listops import END, example


def value_of(text):
    """The value of an expression, by a stack of argument lists."""
    stack = [[]]
    for token in text.split():
        if token == END:
            operator, *values = stack.pop()
            ordered = sorted(values)
            middle = (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2
            result = {"max": ordered[-1], "min": ordered[0], "med": int(middle), "sm": sum(values) % 10}[operator]
            assert 2 <= len(values) <= 10
            stack[-1].append(result)
        elif token.isdigit():
            stack[-1].append(int(token))
        else:
            stack.append([token])
            assert len(stack) <= 10
    (result,), = stack
    return result


def test_expressions_have_their_values_and_lengths():
    made = [example(0, "train", number, 50, 200) for number in range(50)]
    for text, value in made:
        assert 50 < len(text.split()) < 200 and value_of(text) == value
    assert made[7] == example(0, "train", 7, 50, 200) and len(set(made)) == 50
    assert example(0, "dev", 7, 50, 200) != made[7] != example(1, "train", 7, 50, 200)
