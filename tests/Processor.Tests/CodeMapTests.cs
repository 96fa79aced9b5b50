using Bunraku.Engines;
using Bunraku.Engines.X86;
using Bunraku.Processor.X86;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Processor.Tests;

/// <summary>
/// What an observer of host code is told, against where the processor really goes: the address at which translated code was entered last, the place that it was
/// left from, and the jump cache, whose entries emitted code jumps to.
/// </summary>
public sealed unsafe class CodeMapTests
{
    private const uint Start = 0x1000;
    private const int Functions = 60;

    private sealed class Observer : IHostCodeObserver
    {
        /// <summary>What is there now, and how often anything went.</summary>
        public readonly SortedDictionary<ulong, (ulong Length, string Name)> Code = [];
        public int Removals;

        public void CodeAdded(ulong address, ulong length, string name)
        {
            Assert.DoesNotContain(Code, c => c.Key < address + length && address < c.Key + c.Value.Length);
            Code.Add(address, (length, name));
        }

        public void CodeGone(ulong address, ulong length)
        {
            ulong[] gone = [.. Code.Keys.Where(a => a >= address && a < address + length)];
            foreach (ulong a in gone) Code.Remove(a);
            if (gone.Length > 0) Removals++;
        }

        public string? NameOf(ulong address) =>
            Code.Where(c => c.Key <= address && address < c.Key + c.Value.Length).Select(c => c.Value.Name).SingleOrDefault();
    }

    /// <summary>Calls functions in turns, and halts; all of it 32-bit code in flat segments at level 0.</summary>
    private static byte[] Program(int rounds)
    {
        var a = new Assembler(32);
        Label again = a.CreateLabel();
        Label[] functions = [.. Enumerable.Range(0, Functions).Select(_ => a.CreateLabel())];
        a.mov(ebp, rounds);
        a.Label(ref again);
        foreach (Label f in functions) a.call(f);
        a.dec(ebp);
        a.jnz(again);
        a.hlt();
        for (int n = 0; n < Functions; n++)
        {
            a.Label(ref functions[n]);
            a.add(eax, n);
            a.mov(__dword_ptr[esi + 4 * n], eax);
            a.ret();
        }
        var stream = new MemoryStream();
        a.Assemble(new StreamCodeWriter(stream), Start);
        return stream.ToArray();
    }

    private static X86.Processor Make(GuestMemory memory, CodeCacheSizes sizes, byte[] program)
    {
        Assert.True(memory.Write(Start, program));
        var processor = new X86.Processor(memory, CpuModels.Parse("max"), new VirtualClock(), new ProcessorGroup(), translateAfter: 1, sizes);
        var state = new CpuState();
        processor.ReadState(state);
        const uint code = 0xC09B, data = 0xC093;
        state.Cr0 |= 1;
        state.Cs = new SegmentState(8, 0, uint.MaxValue, code);
        state.Ds = state.Es = state.Fs = state.Gs = state.Ss = new SegmentState(16, 0, uint.MaxValue, data);
        state.Rip = Start;
        state.Gpr[4] = 0x8_0000;
        state.Gpr[6] = 0x4_0000;
        processor.WriteState(state);
        return processor;
    }

    [Theory, InlineData(false), InlineData(true)]
    public void Where_translated_code_runs_is_what_the_observer_was_told(bool tiny)
    {
        using var memory = new GuestMemory(1 << 20);
        using X86.Processor processor = Make(memory, tiny ? CodeCacheSizes.Tiny : CodeCacheSizes.Usual, Program(rounds: 20));
        var observer = new Observer();
        Assert.True(processor.ObserveCode(observer));
        Assert.NotEmpty(observer.Code); // the routines
        Assert.All(observer.Code.Values, c => Assert.StartsWith("bunraku:", c.Name));
        Assert.Equal(ExitReason.Hlt, processor.Enter().Reason);

        ProcessorState* s = processor.State;
        Assert.Equal(tiny, observer.Removals > 0);
        // HLT is the interpreter's: translated code was left for it, from its block.
        TranslatedBlock* last = s->Translator.Exit->Block;
        Assert.Contains(observer.NameOf((ulong)s->Translator.Exit), (string[])[$"kernel32:0x{last->Rip:x}", $"kernel32:0x{last->Rip:x}:cold"]);
        Assert.Equal(ExitReason.Hlt, processor.Exit.Reason);
        // Main lies behind the entry that checks the mapping, both in one piece.
        Assert.Equal($"kernel32:0x{last->Rip:x}", observer.NameOf((ulong)last->Main));
        Assert.StartsWith("kernel32:0x", observer.NameOf(s->Translator.Target));
        // Everything that a computed jump can reach, RET among it.
        int targets = 0;
        for (int mode = 0; mode < TranslatorState.TargetModes; mode++)
        {
            byte* table = s->Translator.Targets + mode * TranslatorState.TargetTableSize;
            for (int n = 0; n < TranslatorState.TargetSize; n++)
            {
                ulong rip = 0 - ((ulong*)table)[n];
                ulong code = ((ulong*)table)[TranslatorState.TargetSize + n];
                if (rip == 0 || ((ulong*)table)[n] == TranslatorState.EmptyTarget) continue;
                Assert.Equal($"kernel32:0x{rip:x}", observer.NameOf(code));
                targets++;
            }
        }
        Assert.InRange(targets, tiny ? 1 : Functions, int.MaxValue);
        // Each name once, for what runs often and for what does not; everything inside the functions and their callers.
        string[] names = [.. observer.Code.Values.Select(c => c.Name).Where(n => n.StartsWith("kernel32", StringComparison.Ordinal))];
        Assert.Equal(names.Length, names.Distinct().Count());
        Assert.Equal(names.Where(n => !n.EndsWith(":cold", StringComparison.Ordinal)).Order(),
            names.Where(n => n.EndsWith(":cold", StringComparison.Ordinal)).Select(n => n[..^5]).Order());
    }

    [Theory]
    [InlineData(0u, "kernel16:0x7c00"), InlineData(1u, "kernel32:0x7c00"), InlineData(2u, "kernel64:0x7c00")]
    public void Names_have_the_size_of_the_code(uint codeSize, string expected) => Assert.Equal(expected, CodeMap.Name(0x7C00, codeSize));

    [Fact]
    public void Names_have_the_level_and_the_guest_mode()
    {
        const uint user = 3u << ModeKey.CplShift;
        Assert.Equal("user64:0x401000", CodeMap.Name(0x40_1000, user | ModeKey.Code64));
        Assert.Equal("nested-user64:0x401000", CodeMap.Name(0x40_1000, user | ModeKey.Code64 | ModeKey.Guest));
    }

    [Fact]
    public void A_processor_that_translates_nothing_says_so()
    {
        using var memory = new GuestMemory(1 << 20);
        using var processor = new X86.Processor(memory, CpuModels.Parse("max"), new VirtualClock(), new ProcessorGroup());
        Assert.False(processor.ObserveCode(new Observer()));
    }
}
