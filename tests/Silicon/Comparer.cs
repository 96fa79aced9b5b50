using System.Text;
using Iced.Intel;

namespace Bunraku.Silicon;

/// <summary>One trial in which the guest did not do what the silicon did.</summary>
public sealed record Difference(TestCase Case, string Detail)
{
    public override string ToString() => $"{Case}\n    {Detail}";
}

/// <summary>Runs batches of trials in both worlds and compares what they leave behind.</summary>
public sealed unsafe class Comparer(HostSilicon host, GuestRig guest)
{
    private readonly Dictionary<StateParts, RoutineCode> _routines = [];
    private readonly byte[] _contexts = new byte[Layout.ContextsSize];
    private readonly byte[] _code = new byte[Layout.CasesSize];
    private readonly byte[] _data = new byte[Layout.DataSize];

    /// <summary>The routine that loads and stores <paramref name="parts"/>.</summary>
    internal RoutineCode Routine(StateParts parts)
    {
        if (!_routines.TryGetValue(parts, out RoutineCode? routine)) _routines[parts] = routine = new RoutineCode(parts);
        return routine;
    }

    /// <summary>Differences of one batch that are looked at, the rest would say the same.</summary>
    private const int MostReported = 6;

    /// <summary>Trials compared so far.</summary>
    public long Trials { get; private set; }

    /// <summary>The silicon executed a trial of the last batch: it did not raise #UD in every one.</summary>
    public bool SiliconExecuted { get; private set; }

    /// <summary>
    /// Runs <paramref name="trials"/> prepared contexts (in <see cref="Layout.Contexts"/>, data in <see cref="Layout.Data"/>) of which trial n executes
    /// <c>caseOf(n)</c>. Differing trials are run once more alone, so that one does not taint those after it.
    /// </summary>
    internal void Run(StateParts parts, ReadOnlySpan<byte> code, int trials, Func<int, TestCase> caseOf, List<Difference> differences)
    {
        Host(Layout.Contexts, trials * Context.Size).CopyTo(_contexts);
        Host(Layout.Data, _data.Length).CopyTo(_data);
        Trials += trials;
        if (RunOnce(parts, code, trials, caseOf, out string? failure)) return;
        if (failure != null && trials == 1)
        {
            differences.Add(new Difference(caseOf(0), failure));
            return;
        }
        string first = FirstDifference();
        // Something differs: each trial alone, from its own fresh start.
        byte[] contexts = _contexts.AsSpan(0, trials * Context.Size).ToArray(), data = [.. _data];
        int before = differences.Count;
        for (int n = 0; n < trials && differences.Count - before < MostReported; n++)
        {
            contexts.AsSpan(n * Context.Size, Context.Size).CopyTo(Host(Layout.Contexts, Context.Size));
            data.CopyTo(Host(Layout.Data, data.Length));
            Rebase(contexts.AsSpan(n * Context.Size, Context.Size), n);
            int trial = n;
            bool equal = RunOnce(parts, code, 1, _ => caseOf(trial), out failure);
            if (failure != null) differences.Add(new Difference(caseOf(n), failure));
            else if (!equal) differences.Add(new Difference(caseOf(n), Describe(caseOf(n), parts)));
        }
        // In 16-bit code an interrupt of the host disturbs RSP (see Normalize) and through it other registers; there each trial alone decides.
        if (differences.Count == before && caseOf(0).Bitness != 16)
            differences.Add(new Difference(caseOf(0), $"a batch of {trials} trials differs, but none of them alone: {first}"));
    }

    private string FirstDifference()
    {
        foreach ((ulong start, ulong size) in (ReadOnlySpan<(ulong, ulong)>)[(Layout.Contexts, Layout.ContextsSize), (Layout.Data, Layout.DataSize)])
        {
            Span<byte> a = Host(start, (int)size), b = Guest(start, (int)size);
            int at = a.CommonPrefixLength(b);
            if (at == a.Length) continue;
            int show = Math.Min(32, a.Length - at);
            return start == Layout.Contexts
                ? $"trial {at / Context.Size} offset 0x{at % Context.Size:X}: {Convert.ToHexString(a.Slice(at, show))}/{Convert.ToHexString(b.Slice(at, show))}"
                : $"data 0x{start + (ulong)at:X}: {Convert.ToHexString(a.Slice(at, show))}/{Convert.ToHexString(b.Slice(at, show))}";
        }
        return "nothing any more";
    }

    /// <summary>
    /// Nothing to do: the first context's address is where the lone trial runs; its operand addresses still point to its old place, which stays mapped.
    /// </summary>
    private static void Rebase(ReadOnlySpan<byte> context, int trial) =>
        context.Slice(Context.Scratch, Context.ScratchSize).CopyTo(Host(Layout.Contexts + (ulong)trial * Context.Size + Context.Scratch, Context.ScratchSize));

    private bool RunOnce(StateParts parts, ReadOnlySpan<byte> code, int trials, Func<int, TestCase> caseOf, out string? failure)
    {
        failure = null;
        RoutineCode routine = Routine(parts);
        guest.Write(Layout.Contexts, Host(Layout.Contexts, (int)Layout.ContextsSize));
        guest.Write(Layout.Data, Host(Layout.Data, (int)Layout.DataSize));
        guest.Write(Layout.ReadOnly, Host(Layout.ReadOnly, (int)Layout.ReadOnlySize));
        // What follows the cases is the same in both, since it is read too.
        _code.AsSpan().Fill(0xCC);
        code.CopyTo(_code);
        _code[^1] = 0xF4; // the IP behind a one-byte trap at the end of a 16-bit segment is another matter
        host.Run(routine, _code, trials);
        SiliconExecuted = false;
        for (int n = 0; n < trials; n++) SiliconExecuted |= *(ulong*)(Layout.Contexts + (ulong)(n * Context.Size + Context.FaultVector)) != 6;
        try
        {
            guest.Run(routine, _code, trials);
        }
        catch (GuestRigException e)
        {
            failure = e.Message;
            return false;
        }
        int used = (int)Layout.ContextsSize;
        if (Guest(Layout.Data, (int)Layout.DataSize).SequenceEqual(Host(Layout.Data, (int)Layout.DataSize))
            && Guest(Layout.Contexts, used).SequenceEqual(Host(Layout.Contexts, used))) return true;
        // Fields that need not be equal are made so, then once more.
        for (int n = 0; n < trials; n++) Normalize(n, caseOf(n));
        return Guest(Layout.Data, (int)Layout.DataSize).SequenceEqual(Host(Layout.Data, (int)Layout.DataSize))
            && Guest(Layout.Contexts, used).SequenceEqual(Host(Layout.Contexts, used));
    }

    private static Span<byte> Host(ulong address, int length) => new((void*)address, length);

    private Span<byte> Guest(ulong address, int length) => new(guest.Pointer(address), length);

    private void Normalize(int trial, TestCase test) => OpenOutcomes.Accept(new TrialOutcome(test, trial, guest));

    private string Describe(TestCase test, StateParts parts)
    {
        Normalize(0, test);
        var text = new StringBuilder();
        Span<byte> a = Host(Layout.Contexts, Context.Size), b = Guest(Layout.Contexts, Context.Size);
        ReadOnlySpan<string> names = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];
        text.Append("in:");
        foreach (Register r in UsedRegisters(test.Instruction))
            text.Append($" {names[r - Register.RAX]}={BitConverter.ToUInt64(a[(Context.Gpr + (r - Register.RAX) * 8)..]):X}");
        text.Append($" flags={BitConverter.ToUInt64(a[Context.Rflags..]):X}");
        if (parts != StateParts.General)
        {
            text.Append($" mxcsr={BitConverter.ToUInt32(a[Context.Mxcsr..]):X}");
            for (int n = 0; n < test.Instruction.OpCount; n++)
            {
                Register r = test.Instruction.GetOpRegister(n);
                if (test.Instruction.GetOpKind(n) == OpKind.Register && r.IsVectorRegister())
                    text.Append($" {r}={Convert.ToHexString(a.Slice(Context.Ymm + r.GetNumber() * 32, 32))}");
            }
            if (parts.HasFlag(StateParts.X87)) text.Append($" fcw={BitConverter.ToUInt16(a[Context.Fx..]):X} " +
                $"fsw={BitConverter.ToUInt16(a[(Context.Fx + 2)..]):X} ftw={a[Context.Fx + 4]:X2} st={Convert.ToHexString(a.Slice(Context.Fx + 32, 10))} " +
                $"{Convert.ToHexString(a.Slice(Context.Fx + 48, 10))}");
        }
        text.Append("\n    silicon/guest:");
        Word("vector", Context.FaultVector, a, b);
        Word("error", Context.FaultError, a, b);
        Word("faultrip", Context.FaultRip, a, b);
        Word("cr2", Context.FaultAddress, a, b);
        Word("flags", Context.OutRflags, a, b);
        Word("mark", Context.OutMark, a, b);
        Word("mxcsr", Context.OutMxcsr, a, b);
        for (int n = 0; n < 16; n++) Word(names[n], Context.OutGpr + n * 8, a, b);
        for (int n = 0; n < 16; n++) Bytes($"ymm{n}", Context.OutYmm + n * 32, 32, a, b);
        if (parts.HasFlag(StateParts.X87))
        {
            Bytes("fx.control", Context.OutFx, 32, a, b);
            for (int n = 0; n < 8; n++) Bytes($"st{n}", Context.OutFx + 32 + n * 16, 16, a, b);
            for (int n = 0; n < 22; n++) Bytes($"fx.{160 + n * 16}", Context.OutFx + 160 + n * 16, 16, a, b);
        }
        Memory("memory", Layout.Contexts + Context.Scratch, (int)Layout.ContextsSize - Context.Scratch);
        Memory("data", Layout.Data, (int)Layout.DataSize);
        return text.ToString();

        void Word(string name, int offset, ReadOnlySpan<byte> x, ReadOnlySpan<byte> y)
        {
            ulong p = BitConverter.ToUInt64(x[offset..]), q = BitConverter.ToUInt64(y[offset..]);
            if (p != q) text.Append($" {name} {p:X}/{q:X}");
        }

        void Bytes(string name, int offset, int length, ReadOnlySpan<byte> x, ReadOnlySpan<byte> y)
        {
            if (!x.Slice(offset, length).SequenceEqual(y.Slice(offset, length)))
                text.Append($" {name} {Convert.ToHexString(x.Slice(offset, length))}/{Convert.ToHexString(y.Slice(offset, length))}");
        }

        void Memory(string name, ulong address, int length)
        {
            Span<byte> x = Host(address, length), y = Guest(address, length);
            int first = x.CommonPrefixLength(y);
            if (first == length) return;
            int show = Math.Min(16, length - first);
            text.Append($" {name} {address + (ulong)first:X}: {Convert.ToHexString(x.Slice(first, show))}/{Convert.ToHexString(y.Slice(first, show))}");
        }
    }

    private static IEnumerable<Register> UsedRegisters(Instruction instruction)
    {
        var info = new InstructionInfoFactory();
        return info.GetInfo(instruction).GetUsedRegisters().Select(u => u.Register.GetFullRegister()).Where(r =>
            r is >= Register.RAX and <= Register.R15).Distinct();
    }
}
