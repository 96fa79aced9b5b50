using System.Text;
using Bunraku.Engines;
using Iced.Intel;
using Decoder = Iced.Intel.Decoder;

namespace Bunraku.Engine.Check;

/// <summary>
/// Tells about a difference. Both vCPUs go back to the last stop and run the stretch once more, block by block, to find the block that they do not agree on;
/// the state is of no use afterwards.
/// </summary>
internal sealed class DifferenceReport(string names, IX86Cpu subject, IFollowingCpu reference, Follower follower, ShadowMemory memory,
    GuestMemory real, Stretch stretch)
{
    private const int MostLines = 40, MostTraced = 40;

    private readonly StringBuilder _text = new();
    private readonly CpuState _state = new();

    public string Write(X86Exit exit, IReadOnlyList<string> differences)
    {
        Place end = follower.Place;
        ulong length = end.Retired - stretch.Place.Retired;
        _text.Append($"{names} differ after {end.Retired:N0} instructions, at RIP 0x{follower.SubjectState.Rip:X}, exit {Follower.Describe(exit)}\n");
        Append(differences);
        _text.Append($"in the {length:N0} instructions since the last comparison, at RIP 0x{stretch.State.Rip:X}\n");
        try
        {
            if (!TryLocate(length)) Trace(length);
        }
        catch (Exception e) when (e is InvalidOperationException or NotSupportedException or ArgumentException)
        {
            _text.Append($"(running them again ended with: {e.Message})\n");
        }
        return _text.ToString();
    }

    private void Append(IReadOnlyList<string> lines)
    {
        foreach (string line in lines.Take(MostLines)) _text.Append("    ").Append(line).Append('\n');
        if (lines.Count > MostLines) _text.Append($"    and {lines.Count - MostLines} more\n");
    }

    /// <summary>Block by block. False when the difference does not come again that way.</summary>
    private bool TryLocate(ulong length)
    {
        if (subject is not IFollowingCpu steered) return false;
        Restart();
        Place start = follower.Place, before = start;
        steered.ReadState(_state);
        ulong rip = _state.Rip;
        X86Exit? open = stretch.Open;
        while (before.Retired - start.Retired <= length)
        {
            memory.Checkpoint();
            X86Exit exit = steered.EnterUntil(before.Retired + 1);
            IReadOnlyList<string> differences = follower.Follow(exit);
            IReadOnlyList<string> inMemory = memory.Compare(everything: false);
            if (differences.Count + inMemory.Count > 0)
            {
                _text.Append($"block by block they differ after {follower.Place.Retired - before.Retired} instructions from RIP 0x{rip:X}, "
                    + $"which is {before.Retired - start.Retired:N0} instructions into the stretch:\n");
                Append([.. differences, .. inMemory]);
                Disassemble(rip, follower.Place.Retired - before.Retired + 1); // with the one that may have faulted
                return true;
            }
            if (exit.Reason != ExitReason.Kicked)
            {
                if (open == null || exit.Reason != open.Reason || follower.Place.Retired != start.Retired) break; // the end of the stretch
                (exit.Data, exit.Fault, exit.Eax, exit.Ebx, exit.Ecx, exit.Edx) = (open.Data, open.Fault, open.Eax, open.Ebx, open.Ecx, open.Edx);
                follower.Answer(exit);
                open = null;
            }
            before = follower.Place;
            rip = follower.SubjectState.Rip;
        }
        _text.Append("run again block by block they do not differ: the blocks' way into each other matters, or what was cached before\n");
        return false;
    }

    /// <summary>The end of the stretch as the reference runs it.</summary>
    private void Trace(ulong length)
    {
        Restart();
        var start = Place.Of(reference);
        X86Exit? open = stretch.Open;
        ulong at = length > MostTraced ? length - MostTraced : 0;
        _text.Append($"the last {length - at} instructions as the reference runs them:\n");
        for (; at <= length; at++)
        {
            X86Exit exit = reference.FollowTo(new Place(start.Retired + at, 0), beyond: false);
            if (exit.Reason != ExitReason.Kicked && open != null)
            {
                (exit.Data, exit.Fault, exit.Eax, exit.Ebx, exit.Ecx, exit.Edx) = (open.Data, open.Fault, open.Eax, open.Ebx, open.Ecx, open.Edx);
                open = null;
                at--;
                continue;
            }
            reference.ReadState(_state);
            Disassemble(_state.Rip, 1);
            if (exit.Reason != ExitReason.Kicked) return;
        }
    }

    private void Restart()
    {
        memory.Rewind();
        subject.WriteState(stretch.State);
        reference.WriteState(stretch.State);
        follower.Restart();
        subject.Controls = reference.Controls;
        foreach (Action<IX86Cpu> inject in stretch.Events)
        {
            inject(subject);
            inject(reference);
        }
    }

    private void Disassemble(ulong rip, ulong count)
    {
        CpuState s = _state;
        reference.ReadState(s);
        bool longMode = s.Is64BitMode;
        int bits = longMode ? 64 : (s.Cs.Attributes & 0x4000) != 0 ? 32 : 16;
        var code = new byte[15 * 64];
        int length = LinearMemory.Read(real, s, longMode ? rip : s.Cs.Base + rip, code);
        var decoder = Decoder.Create(bits, code.AsSpan(0, length).ToArray(), rip);
        var formatter = new NasmFormatter();
        var output = new StringOutput();
        for (ulong n = 0; n < Math.Clamp(count, 1, 64) && decoder.IP < rip + (ulong)length; n++)
        {
            int at = (int)(decoder.IP - rip);
            Instruction i = decoder.Decode();
            formatter.Format(i, output);
            _text.Append($"    {i.IP:x16}  {Convert.ToHexStringLower(code, at, i.Length),-22} {output.ToStringAndReset()}\n");
        }
        if (length == 0) _text.Append($"    {rip:x16}  (no code there)\n");
    }
}
