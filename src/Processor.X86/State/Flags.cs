using System.Numerics;
using System.Runtime.CompilerServices;

namespace Bunraku.Processor.X86;

/// <summary>
/// The six arithmetic flags, kept lazily: an operation stores its result and its carry-out vector, a flag is computed when it is read.
/// Nothing needs to know which operation came last.
/// <list type="bullet">
/// <item>ZF = (FlagZ == 0); SF = bit 63 of FlagSp; PF = even parity of FlagSp[7:0]</item>
/// <item>CF = bit 63 of FlagCarries; OF = bit 63 XOR bit 62; AF = bit 3</item>
/// </list>
/// </summary>
internal static unsafe class Flags
{
    private const ulong Top = 1ul << 63;

    [MethodImpl(MethodImplOptions.AggressiveInlining)] public static bool Cf(ProcessorState* s) => (long)s->FlagCarries < 0;
    [MethodImpl(MethodImplOptions.AggressiveInlining)] public static bool Zf(ProcessorState* s) => s->FlagZ == 0;
    [MethodImpl(MethodImplOptions.AggressiveInlining)] public static bool Sf(ProcessorState* s) => (long)s->FlagSp < 0;
    [MethodImpl(MethodImplOptions.AggressiveInlining)] public static bool Of(ProcessorState* s) => (long)(s->FlagCarries ^ (s->FlagCarries << 1)) < 0;
    [MethodImpl(MethodImplOptions.AggressiveInlining)] public static bool Pf(ProcessorState* s) => (BitOperations.PopCount((uint)(byte)s->FlagSp) & 1) == 0;
    [MethodImpl(MethodImplOptions.AggressiveInlining)] public static bool Af(ProcessorState* s) => (s->FlagCarries & 8) != 0;

    /// <summary>The whole RFLAGS.</summary>
    public static uint Get(ProcessorState* s) =>
        s->FlagsOther | (uint)Rflags.Fixed1
        | (Cf(s) ? (uint)Rflags.Cf : 0) | (Pf(s) ? (uint)Rflags.Pf : 0) | (Af(s) ? (uint)Rflags.Af : 0)
        | (Zf(s) ? (uint)Rflags.Zf : 0) | (Sf(s) ? (uint)Rflags.Sf : 0) | (Of(s) ? (uint)Rflags.Of : 0);

    /// <summary>
    /// Replaces the whole RFLAGS; the caller has masked what may not change and calls <see cref="Processor.ModeChanged"/> if TF, AC, VM or IF changed.
    /// </summary>
    public static void Set(ProcessorState* s, uint value)
    {
        SetArithmetic(s, value);
        s->FlagsOther = value & ~(uint)Rflags.Arithmetic | (uint)Rflags.Fixed1;
        s->Direction = (value & (uint)Rflags.Df) != 0 ? -1 : 1;
    }

    /// <summary>Sets CF, PF, AF, ZF, SF and OF from the bits of an RFLAGS image and leaves the others alone.</summary>
    public static void SetArithmetic(ProcessorState* s, uint value)
    {
        s->FlagZ = ~value & (uint)Rflags.Zf;
        // Bit 0 alone has odd parity.
        s->FlagSp = ((value & (uint)Rflags.Sf) != 0 ? Top : 0) | ((value & (uint)Rflags.Pf) != 0 ? 0ul : 1ul);
        bool cf = (value & (uint)Rflags.Cf) != 0, of = (value & (uint)Rflags.Of) != 0;
        s->FlagCarries = Carries(cf, of) | ((value & (uint)Rflags.Af) != 0 ? 8ul : 0);
    }

    /// <summary>A carry vector with the given CF and OF and AF clear.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Carries(bool cf, bool of) => (cf ? Top : 0) | (cf != of ? Top >> 1 : 0);

    /// <summary>Replaces CF only.</summary>
    public static void SetCf(ProcessorState* s, bool cf) => s->FlagCarries = Carries(cf, Of(s)) | (s->FlagCarries & 8);

    /// <summary>Replaces ZF only.</summary>
    public static void SetZf(ProcessorState* s, bool zf) => s->FlagZ = zf ? 0ul : 1ul;

    /// <summary>
    /// After an operation with the result <paramref name="result"/> and the carry-out (borrow) vector <paramref name="carries"/>, both <typeparamref name="T"/>
    /// wide.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void SetResult<T>(ProcessorState* s, T result, T carries) where T : unmanaged, IBinaryInteger<T>
    {
        ulong r = Width.SignExtend(result), c = ulong.CreateTruncating(carries);
        s->FlagZ = r;
        s->FlagSp = r;
        s->FlagCarries = sizeof(T) == 8 ? c : (c << (64 - sizeof(T) * 8)) | (c & 8);
    }

    /// <summary>After AND, OR, XOR, TEST: CF and OF clear, AF clear (undefined by the manuals, clear on real processors).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void SetLogic<T>(ProcessorState* s, T result) where T : unmanaged, IBinaryInteger<T>
    {
        ulong r = Width.SignExtend(result);
        s->FlagZ = r;
        s->FlagSp = r;
        s->FlagCarries = 0;
    }
}

/// <summary>Helpers over the operand width; <c>T</c> is byte, ushort, uint or ulong, so that the JIT specialises each.</summary>
internal static unsafe class Width
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong SignExtend<T>(T value) where T : unmanaged, IBinaryInteger<T>
    {
        if (sizeof(T) == 1) return (ulong)(sbyte)byte.CreateTruncating(value);
        if (sizeof(T) == 2) return (ulong)(short)ushort.CreateTruncating(value);
        if (sizeof(T) == 4) return (ulong)(int)uint.CreateTruncating(value);
        return ulong.CreateTruncating(value);
    }

    /// <summary>Bits of <typeparamref name="T"/>.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static int Bits<T>() where T : unmanaged => sizeof(T) * 8;
}

/// <summary>Register operands by their offset in <see cref="ProcessorState"/>.</summary>
internal static unsafe class Register
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Get<T>(ProcessorState* s, int offset) where T : unmanaged => *(T*)((byte*)s + offset);

    /// <summary>
    /// Writes a general register: 32-bit writes clear the upper half, narrower ones merge (SDM vol. 1, "General-Purpose Registers in 64-Bit Mode").
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Set<T>(ProcessorState* s, int offset, T value) where T : unmanaged
    {
        if (sizeof(T) == 4) *(ulong*)((byte*)s + offset) = *(uint*)&value;
        else *(T*)((byte*)s + offset) = value;
    }
}
