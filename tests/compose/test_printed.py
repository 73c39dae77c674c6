"""The comparison bites: a run that went well passes, and each planted violation is found."""

import unittest

import printed

import oracle

MDT = "scratch-MDT0000"
BEGIN = 1_700_000_000_000_000_000


def line(index, time, incarnation=1):
    seconds, fraction = divmod(time, 10**9)
    assert seconds == BEGIN // 10**9
    return (f'{{"incarnation":{incarnation},"index":{index},"mdt":"{MDT}",'
            f'"time":"2023-11-14T22:13:20.{fraction:09}Z","type":"CREAT"}}')


def retraction(incarnation, first, last):
    return (f'{{"incarnation":{incarnation + 1},"index":{last},"mdt":"{MDT}","time":"2023-11-14T22:13:20Z",'
            f'"retracts":{{"incarnation":{incarnation},"from":{first},"to":{last}}},"type":"MARK"}}')


class Run(unittest.TestCase):
    """Ten records, cleared up to the fifth."""

    def setUp(self):
        self.history = oracle.History(MDT)
        self.history.event({"event": "registered", "user": "cl1", "index": 0})
        self.lines = []
        for index in range(1, 11):
            self.log(index, BEGIN + index)
            self.lines.append(line(index, BEGIN + index))
        self.history.event({"event": "clear", "errno": 0, "at_ns": 0, "user": "cl1", "before": 0, "after": 5})

    def log(self, index, time, life=1):
        self.history.record(life, index, 1, time, 0x200000401, index, 0, time)

    def crash(self, last_kept):
        """Records behind `last_kept` are taken back, and their indexes are used again."""
        self.history.event({"event": "taken_back", "from": last_kept + 1, "to": 10})
        for index in range(last_kept + 1, 11):
            self.log(index, BEGIN + 100 + index, life=2)
            self.lines.append(line(index, BEGIN + 100 + index, incarnation=2))

    def judged(self):
        return printed.violations([self.history], "lake", printed.Printed("\n".join(self.lines) + "\n"))

    def early(self):
        return printed.uncovered([self.history], printed.Printed("\n".join(self.lines) + "\n"))

    def test_a_run_in_which_everything_was_printed_passes(self):
        self.assertEqual(self.judged(), [])
        self.assertEqual(self.early(), [])

    def test_a_record_that_was_not_printed_is_lost(self):
        del self.lines[6]
        self.assertIn("1 × lost", self.judged()[0])

    def test_a_record_that_was_cleared_and_not_printed_was_cleared_too_early(self):
        del self.lines[4]
        self.assertEqual(len(self.early()), 1)

    def test_a_record_that_no_mdt_logged_is_found(self):
        self.lines.append(line(11, BEGIN + 11))
        self.assertIn("never happened", self.judged()[0])

    def test_a_record_printed_twice_is_a_duplicate_and_no_violation(self):
        self.lines.append(self.lines[3])
        self.assertEqual(self.judged(), [])
        self.assertEqual(printed.Printed("\n".join(self.lines)).duplicates(), 1)

    def test_records_that_a_crash_took_back_must_be_retracted(self):
        self.crash(8)
        self.assertIn("2 × taken back, printed and not retracted", self.judged()[0])
        self.lines.insert(10, retraction(1, 9, 10))
        self.assertEqual(self.judged(), [])

    def test_a_new_record_at_a_used_index_is_not_the_old_one(self):
        self.crash(8)
        self.lines.insert(10, retraction(1, 9, 10))
        del self.lines[-1]
        self.assertIn("1 × lost", self.judged()[0])

    def test_what_follows_a_torn_line_counts_and_the_torn_line_does_not(self):
        whole = self.lines[5]
        self.lines[5] = whole[:20] + self.lines[6]
        del self.lines[6]
        self.assertIn("1 × lost", self.judged()[0])
        self.lines.append(whole)
        self.assertEqual(self.judged(), [])


if __name__ == "__main__":
    unittest.main()
