using Bunraku.Platform;
using Iced.Intel;
using HostRegister = Iced.Intel.Register;

namespace Bunraku.Processor.X86;

/// <summary>Instructions that the translator passes to the host and whose flags the manuals leave undefined in part. The names begin Iced's codes.</summary>
internal enum HostOperation
{
    Shl, Shr, Sar, Rol, Ror, Rcl, Rcr, Shld, Shrd, Mul, Imul, ImulWide, Div, Idiv, Bsf, Bsr, Tzcnt, Lzcnt, Andn, Bextr, Bzhi, Blsi, Blsmsk, Blsr,
}

/// <summary>
/// Emitted functions that execute one integer instruction on the host and return the flags: for each operation and width one, and where asked for one more for
/// each immediate count and for operands in memory, since processors may treat those differently. Immutable once made; callable from any thread.
/// </summary>
internal sealed unsafe class SiliconFlagRoutines
{
    /// <summary>Arguments: first operand, second operand, count or high half of a dividend, flags before, where the result goes; returns RFLAGS.</summary>
    private readonly delegate* unmanaged[SuppressGCTransition]<ulong, ulong, ulong, ulong, ulong*, ulong>[,] _routines;

    private const int Widths = 4, Counts = 64, ArenaSize = 0x4_0000;

    // Never given back: it lives as long as the process.
    private readonly ExecutableMemory _memory = new(ArenaSize);
    private readonly Writer _writer = new();

    public SiliconFlagRoutines()
    {
        HostOperation[] operations = Enum.GetValues<HostOperation>();
        _routines = new delegate* unmanaged[SuppressGCTransition]<ulong, ulong, ulong, ulong, ulong*, ulong>[operations.Length * Widths, 2 * Counts];
        foreach (HostOperation operation in operations)
        {
            for (int width = 0; width < Widths; width++)
            {
                if (CodeOf(operation, 8 << width, immediate: false) is { } code) Make(operation, width, code, 0, memory: false);
            }
        }
    }

    /// <summary>
    /// Makes the routines of a shift or rotate with an immediate count of more than 1 and with an operand in memory; before anybody else can see this object.
    /// </summary>
    public void AddVariants(HostOperation operation)
    {
        for (int width = 0; width < Widths; width++)
        {
            if (CodeOf(operation, 8 << width, immediate: true) is not { } code || CodeOf(operation, 8 << width, immediate: false) is not { } byRegister)
                continue;
            Make(operation, width, byRegister, 0, memory: true);
            for (int count = 2; count < (width == 3 ? Counts : Counts / 2); count++)
            {
                Make(operation, width, code, count, memory: false);
                Make(operation, width, code, count, memory: true);
            }
        }
    }

    /// <summary>The operation exists in this width and the host has it.</summary>
    public bool Has(HostOperation operation, int width) => _routines[(int)operation * Widths + width, 0] != null;

    /// <summary>Executes the instruction.</summary>
    /// <param name="width">log2 of the operand's bytes.</param>
    /// <param name="immediate">The count, more than 1, is an immediate; else it is in CL.</param>
    /// <param name="memory">The first operand is in memory; only of what <see cref="AddVariants"/> made.</param>
    public uint Run(HostOperation operation, int width, bool immediate, bool memory, ulong first, ulong second, ulong third, uint flags, out ulong result)
    {
        const uint fixedOne = (uint)Rflags.Fixed1;
        ulong r;
        var after =
            (uint)_routines[(int)operation * Widths + width, (immediate ? (int)third : 0) + (memory ? Counts : 0)](first, second, third,
            flags & (uint)Rflags.Arithmetic | fixedOne, &r);
        result = r;
        return after;
    }

    private sealed class Writer : CodeWriter
    {
        private readonly byte[] _bytes = new byte[64];
        public int Length;
        public override void WriteByte(byte value) => _bytes[Length++] = value;
        public ReadOnlySpan<byte> Span => _bytes.AsSpan(0, Length);
    }

    private static Code? CodeOf(HostOperation operation, int bits, bool immediate)
    {
        string name = operation switch
        {
            <= HostOperation.Rcr => $"{operation}_rm{bits}_{(immediate ? "imm8" : "CL")}",
            <= HostOperation.Shrd => $"{operation}_rm{bits}_r{bits}_{(immediate ? "imm8" : "CL")}",
            HostOperation.Mul or HostOperation.Div or HostOperation.Idiv => $"{operation}_rm{bits}",
            HostOperation.ImulWide => $"Imul_rm{bits}",
            HostOperation.Andn => $"VEX_Andn_r{bits}_r{bits}_rm{bits}",
            HostOperation.Bextr or HostOperation.Bzhi => $"VEX_{operation}_r{bits}_rm{bits}_r{bits}",
            >= HostOperation.Blsi => $"VEX_{operation}_r{bits}_rm{bits}",
            _ => $"{operation}_r{bits}_rm{bits}",
        };
        bool host = operation switch
        {
            HostOperation.Lzcnt => System.Runtime.Intrinsics.X86.Lzcnt.IsSupported,
            HostOperation.Bzhi => System.Runtime.Intrinsics.X86.Bmi2.IsSupported,
            HostOperation.Tzcnt or >= HostOperation.Andn => System.Runtime.Intrinsics.X86.Bmi1.IsSupported,
            _ => true,
        };
        return host && Enum.TryParse(name, out Code code) ? code : null;
    }

    private void Make(HostOperation operation, int width, Code code, int count, bool memory)
    {
        // System V: RDI, RSI, RDX, RCX, R8. The first operand goes to RAX, where the result comes from, the third to RCX as well.
        HostRegister a = Sized(width, HostRegister.AL, HostRegister.AX), b = Sized(width, HostRegister.SIL, HostRegister.SI),
            first = Sized(width, HostRegister.DIL, HostRegister.DI);
        Instruction instruction = operation switch
        {
            <= HostOperation.Rcr => count == 0 ? Instruction.Create(code, a, HostRegister.CL) : Instruction.Create(code, a, count),
            <= HostOperation.Shrd => count == 0 ? Instruction.Create(code, a, b, HostRegister.CL) : Instruction.Create(code, a, b, count),
            HostOperation.Mul or HostOperation.ImulWide or HostOperation.Div or HostOperation.Idiv => Instruction.Create(code, b),
            HostOperation.Imul => Instruction.Create(code, a, b),
            HostOperation.Andn or HostOperation.Bextr or HostOperation.Bzhi => Instruction.Create(code, a, first, b),
            _ => Instruction.Create(code, a, first),
        };
        if (memory)
        {
            instruction.SetOpKind(0, OpKind.Memory);
            instruction.MemoryBase = HostRegister.R8;
        }
        _writer.Length = 0;
        var encoder = Encoder.Create(64, _writer);
        ReadOnlySpan<Instruction> body =
        [
            Instruction.Create(Code.Push_r64, HostRegister.RCX),
            Instruction.Create(Code.Mov_r64_rm64, HostRegister.RAX, HostRegister.RDI),
            Instruction.Create(Code.Mov_r64_rm64, HostRegister.RCX, HostRegister.RDX),
            memory ? Instruction.Create(Code.Mov_rm64_r64, new MemoryOperand(HostRegister.R8), HostRegister.RAX) : Instruction.Create(Code.Nopd),
            Instruction.Create(Code.Popfq),
            instruction,
            memory ? Instruction.Create(Code.Nopd) : Instruction.Create(Code.Mov_rm64_r64, new MemoryOperand(HostRegister.R8), HostRegister.RAX),
            Instruction.Create(Code.Pushfq),
            Instruction.Create(Code.Pop_r64, HostRegister.RAX),
            Instruction.Create(Code.Retnq),
        ];
        foreach (Instruction i in body) encoder.Encode(i, (ulong)_writer.Length);
        byte* made = (byte*)_memory.Append(_writer.Span);
        if (made == null) throw new InvalidOperationException("the routines for flags do not fit");
        _routines[(int)operation * Widths + width, count + (memory ? Counts : 0)] =
            (delegate* unmanaged[SuppressGCTransition]<ulong, ulong, ulong, ulong, ulong*, ulong>)made;
    }

    private static HostRegister Sized(int width, HostRegister bytes, HostRegister words) =>
        width == 0 ? bytes : words + (width - 1) * (HostRegister.EAX - HostRegister.AX);
}
