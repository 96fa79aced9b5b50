using System.Numerics;
using System.Runtime.CompilerServices;

namespace Bunraku.Processor.X86;

/// <summary>How a host sets flags that the manuals leave undefined.</summary>
internal enum FlagRule
{
    /// <summary>As AMD's families 19h and 1Ah do.</summary>
    Amd,
    /// <summary>As Intel's Golden Cove does.</summary>
    Intel,
    /// <summary>Otherwise: the instruction is executed on the host to see.</summary>
    Ask,
}

/// <summary>
/// What the host's silicon leaves in flags that the manuals leave undefined. The translator executes such instructions on the host as they are, so the
/// interpreter takes these flags, and nothing else, from the host as well: both engines leave the same on every host. Where the host follows one of two known
/// rules, which is tried out once, the interpreter computes by the rule.
/// </summary>
/// <remarks>Immutable after the first use; any thread.</remarks>
internal static unsafe class SiliconFlags
{
    private const uint Cf = (uint)Rflags.Cf, Pf = (uint)Rflags.Pf, Af = (uint)Rflags.Af, Zf = (uint)Rflags.Zf, Sf = (uint)Rflags.Sf, Of = (uint)Rflags.Of;

    private static readonly SiliconFlagRoutines s_routines = new();

    /// <summary>SHL, SHR, SAR: AF, and OF for other counts than 1.</summary>
    public static readonly FlagRule Shifts = Find(HostOperation.Shl, HostOperation.Shr, HostOperation.Sar);
    /// <summary>ROL, ROR, RCL, RCR: OF for other counts than 1.</summary>
    public static readonly FlagRule Rotates = Find(HostOperation.Rol, HostOperation.Ror, HostOperation.Rcl, HostOperation.Rcr);
    /// <summary>SHLD, SHRD: AF, OF for other counts than 1, and everything when a count exceeds 16 bits.</summary>
    public static readonly FlagRule DoubleShifts = Find(HostOperation.Shld, HostOperation.Shrd);
    /// <summary>MUL, IMUL: SF, ZF, AF, PF.</summary>
    public static readonly FlagRule Products = Find(HostOperation.Mul, HostOperation.Imul, HostOperation.ImulWide);
    /// <summary>DIV, IDIV: all.</summary>
    public static readonly FlagRule Quotients = Find(HostOperation.Div, HostOperation.Idiv);
    /// <summary>BSF, BSR: CF, OF, SF, AF, PF.</summary>
    public static readonly FlagRule Scans = Find(HostOperation.Bsf, HostOperation.Bsr);
    /// <summary>TZCNT, LZCNT: OF, SF, AF, PF.</summary>
    public static readonly FlagRule Counts = Find(HostOperation.Tzcnt, HostOperation.Lzcnt);
    /// <summary>BMI1 and BMI2: AF, PF; of BEXTR SF, too.</summary>
    public static readonly FlagRule Fields =
        Find(HostOperation.Andn, HostOperation.Bextr, HostOperation.Bzhi, HostOperation.Blsi, HostOperation.Blsmsk, HostOperation.Blsr);

    /// <summary>
    /// Executes the instruction on the host and replaces the undefined flags. <paramref name="before"/> is RFLAGS before the instruction; the state has
    /// the defined flags already.
    /// </summary>
    /// <param name="third">The count, masked; the high half of a dividend.</param>
    /// <param name="immediate">The count is an immediate.</param>
    /// <param name="memory">The first operand of a shift or rotate is in memory.</param>
    /// <returns>The result of the host; nothing where all flags are defined.</returns>
    [MethodImpl(MethodImplOptions.NoInlining)]
    public static ulong Ask<T>(ProcessorState* s, HostOperation operation, uint before, ulong first, ulong second, ulong third, bool immediate = false,
        bool memory = false) where T : unmanaged
    {
        uint undefined = Undefined(operation, sizeof(T) * 8, (int)third);
        if (undefined == 0) return 0;
        uint after =
            s_routines.Run(operation, BitOperations.Log2((uint)sizeof(T)), immediate && third > 1, memory, first, second, third, before, out ulong result);
        Flags.SetArithmetic(s, Flags.Get(s) & ~undefined | after & undefined);
        return result;
    }

    /// <summary>
    /// Flags that are undefined after the instruction. Intel SDM vol. 2, "Flags Affected" of each; AMD APM vol. 3, appendix "Instruction Effects on RFLAGS".
    /// </summary>
    private static uint Undefined(HostOperation operation, int bits, int count) => operation switch
    {
        HostOperation.Shl or HostOperation.Shr => Af | (count == 1 ? 0 : Of) | (count >= bits ? Cf : 0),
        HostOperation.Sar => Af | (count == 1 ? 0 : Of),
        HostOperation.Shld or HostOperation.Shrd => count > bits ? (uint)Rflags.Arithmetic : Af | (count == 1 ? 0 : Of),
        <= HostOperation.Rcr => count == 1 ? 0 : Of,
        HostOperation.Mul or HostOperation.Imul or HostOperation.ImulWide => Sf | Zf | Af | Pf,
        HostOperation.Div or HostOperation.Idiv => (uint)Rflags.Arithmetic,
        HostOperation.Bsf or HostOperation.Bsr => Cf | Of | Sf | Af | Pf,
        HostOperation.Tzcnt or HostOperation.Lzcnt => Of | Sf | Af | Pf,
        HostOperation.Bextr => Af | Sf | Pf,
        _ => Af | Pf,
    };

    /// <summary>The rule by which the host does all of <paramref name="operations"/>.</summary>
    private static FlagRule Find(params ReadOnlySpan<HostOperation> operations)
    {
        foreach (FlagRule rule in (ReadOnlySpan<FlagRule>)[FlagRule.Amd, FlagRule.Intel])
        {
            bool follows = true;
            foreach (HostOperation operation in operations) follows &= IsIntelRotate(rule, operation) ? RotatesAsIntel(operation) : Follows(rule, operation);
            if (follows) return rule;
        }
        foreach (HostOperation operation in operations)
        {
            if (operation <= HostOperation.Shrd && !IsIntelRotate(FlagRule.Intel, operation)) s_routines.AddVariants(operation);
        }
        return FlagRule.Ask;
    }

    private static bool IsIntelRotate(FlagRule rule, HostOperation operation) =>
        rule == FlagRule.Intel && operation is HostOperation.Rol or HostOperation.Ror or HostOperation.Rcl or HostOperation.Rcr;

    /// <summary>Every count of a rotate, by CL and as an immediate, of registers and in memory, leaves what <see cref="IntelRotates"/> says.</summary>
    private static bool RotatesAsIntel(HostOperation operation)
    {
        const int trials = 8;
        s_routines.AddVariants(operation);
        ulong random = 0x9E37_79B9_7F4A_7C15;
        for (int width = 0; width < 4; width++)
        {
            for (int count = 2; count < (width == 3 ? 64 : 32); count++)
            {
                for (int n = 0; n < 4 * trials; n++)
                {
                    bool immediate = (n & 1) != 0, memory = (n & 2) != 0;
                    ulong first = Next(ref random);
                    var before = (uint)Next(ref random);
                    uint after = s_routines.Run(operation, width, immediate, memory, first, 0, (ulong)count, before, out _);
                    ulong of = IntelRotates.Overflow(operation, 8 << width, first, count, before & Cf, before / Of & 1, immediate && !memory);
                    if ((after / Of & 1) != of) return false;
                }
            }
        }
        return true;
    }

    private static ulong Next(ref ulong random)
    {
        random ^= random << 13;
        random ^= random >> 7;
        return random ^= random << 17;
    }

    /// <summary>Many operands of each width leave what the rule says.</summary>
    private static bool Follows(FlagRule rule, HostOperation operation)
    {
        const int trials = 200;
        ulong random = 0x9E37_79B9_7F4A_7C15;
        for (int width = 0; width < 4; width++)
        {
            if (!s_routines.Has(operation, width)) continue;
            int bits = 8 << width;
            for (int n = 0; n < trials; n++)
            {
                // Few bits set, many, none: what the rules tell apart.
                ulong first = Next(ref random) >> (n & 63), second = Next(ref random) >> (n * 7 & 63), third = Next(ref random);
                var before = (uint)Next(ref random);
                if (operation <= HostOperation.Shrd)
                {
                    third = 2 + third % (ulong)(bits - 2);
                }
                else if (operation is HostOperation.Div or HostOperation.Idiv)
                {
                    // A small positive dividend and divisor: no #DE in any width.
                    (first, second, third) = (first & 0x7F, 1 + (second & 0x3F), 0);
                }
                uint after = s_routines.Run(operation, width, immediate: false, memory: false, first, second, third, before, out ulong result);
                uint undefined = Undefined(operation, bits, (int)third);
                if (((after ^ ByRule(rule, operation, bits, before, after, first, result)) & undefined) != 0) return false;
            }
        }
        return true;
    }

    /// <summary>The undefined flags as the rule says, for counts below the width; the interpreter's handlers have the same rules.</summary>
    private static uint ByRule(FlagRule rule, HostOperation operation, int bits, uint before, uint after, ulong first, ulong result)
    {
        bool amd = rule == FlagRule.Amd;
        uint parity = (BitOperations.PopCount((uint)(byte)result) & 1) == 0 ? Pf : 0;
        uint top = Bit(result, bits - 1);
        switch (operation)
        {
            case HostOperation.Shl or HostOperation.Shr or HostOperation.Sar when !amd:
                uint byOne =
                    operation switch { HostOperation.Shl => Bit(first, bits - 1) ^ Bit(first, bits - 2), HostOperation.Shr => Bit(first, bits - 1), _ => 0 };
                return byOne * Of;
            case <= HostOperation.Shrd:
                if (!amd) return ~after; // there is no second rule
                bool left = operation is HostOperation.Shl or HostOperation.Rol or HostOperation.Rcl or HostOperation.Shld;
                return Af | (left ? (after & Cf) ^ top : top ^ Bit(result, bits - 2)) * Of;
            case HostOperation.Mul or HostOperation.Imul or HostOperation.ImulWide:
                return amd ? before : top * Sf | parity;
            case HostOperation.Div or HostOperation.Idiv:
                return amd ? before & (Cf | Of) | Af : ~after;
            case HostOperation.Bsf or HostOperation.Bsr:
                if (!amd) return ~after;
                return (after & Zf) != 0 ? Pf : parity;
            case HostOperation.Tzcnt or HostOperation.Lzcnt:
                return amd ? before & Of : 0;
            case HostOperation.Bextr:
                return amd ? Af | parity : 0;
            default:
                return amd ? parity : after & Sf;
        }
    }

    private static uint Bit(ulong value, int n) => (uint)(value >> n) & 1;
}
