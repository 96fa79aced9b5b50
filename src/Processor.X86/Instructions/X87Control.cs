using System.Runtime.CompilerServices;

namespace Bunraku.Processor.X86;

/// <summary>x87 control instructions. The FN forms do not wait for pending exceptions.</summary>
internal static unsafe class X87Control
{
    public static Insn* Fninit(Processor p, ProcessorState* s, Insn* i)
    {
        X87.Initialise(s);
        return i + 1;
    }

    public static Insn* Fnclex(Processor p, ProcessorState* s, Insn* i)
    {
        X87.ClearExceptions(s);
        return i + 1;
    }

    /// <summary>FENI, FDISI, FSETPM: nothing since the 387.</summary>
    public static Insn* Nothing(Processor p, ProcessorState* s, Insn* i) => i + 1;

    public static Insn* Wait(Processor p, ProcessorState* s, Insn* i)
    {
        X87.CheckPending(p, s);
        return i + 1;
    }

    public static Insn* FnstswAx(Processor p, ProcessorState* s, Insn* i)
    {
        *(ushort*)&s->Rax = X87.Status(s);
        return i + 1;
    }

    public static Insn* Fnstsw(Processor p, ProcessorState* s, Insn* i)
    {
        Access.Write(p, s, Access.Address(s, i), X87.Status(s));
        return i + 1;
    }

    public static Insn* Fnstcw(Processor p, ProcessorState* s, Insn* i)
    {
        Access.Write(p, s, Access.Address(s, i), X87.Control(s));
        return i + 1;
    }

    public static Insn* Fldcw(Processor p, ProcessorState* s, Insn* i)
    {
        X87.CheckPending(p, s);
        X87.SetControl(s, Access.Read<ushort>(p, s, Access.Address(s, i)));
        return i + 1;
    }

    public static Insn* Emms(Processor p, ProcessorState* s, Insn* i)
    {
        X87.CheckPending(p, s);
        X87.EnterMmx(s); // the top of stack becomes 0 as with any MMX instruction
        X87.Tags(s) = 0;
        return i + 1;
    }
}

/// <summary>
/// FNSTENV, FLDENV, FNSAVE, FRSTOR in their four formats; <typeparamref name="T"/> is ushort or uint by the operand size.
/// Intel SDM vol. 1, "Saving the x87 FPU's State with FSTENV/FNSTENV and FSAVE/FNSAVE".
/// </summary>
internal static unsafe class X87Environment<T> where T : unmanaged
{
    private static int Size => sizeof(T) * 7;
    private const int RegisterBytes = 80;
    private const int OpcodeMask = 0x7FF;

    public static Insn* Fnstenv(Processor p, ProcessorState* s, Insn* i)
    {
        byte* image = stackalloc byte[28];
        Build(s, image);
        p.Mmu.WriteBytes(Access.Address(s, i), new ReadOnlySpan<byte>(image, Size));
        X87.SetControl(s, X87.Control(s) | 0x3F); // all exceptions masked
        return i + 1;
    }

    public static Insn* Fnsave(Processor p, ProcessorState* s, Insn* i)
    {
        byte* image = stackalloc byte[28 + RegisterBytes];
        Build(s, image);
        for (int n = 0; n < 8; n++) Unsafe.CopyBlockUnaligned(image + Size + n * 10, X87.St(s, n), 10);
        p.Mmu.WriteBytes(Access.Address(s, i), new ReadOnlySpan<byte>(image, Size + RegisterBytes));
        X87.Initialise(s);
        return i + 1;
    }

    public static Insn* Fldenv(Processor p, ProcessorState* s, Insn* i)
    {
        X87.CheckPending(p, s);
        byte* image = stackalloc byte[28];
        p.Mmu.ReadBytes(Access.Address(s, i), new Span<byte>(image, Size));
        int top = X87.Top(s);
        Load(s, image);
        X87.Rotate(s, X87.Top(s) - top); // the physical registers stay where they are
        return i + 1;
    }

    public static Insn* Frstor(Processor p, ProcessorState* s, Insn* i)
    {
        X87.CheckPending(p, s);
        byte* image = stackalloc byte[28 + RegisterBytes];
        p.Mmu.ReadBytes(Access.Address(s, i), new Span<byte>(image, Size + RegisterBytes));
        Load(s, image);
        for (int n = 0; n < 8; n++) Unsafe.CopyBlockUnaligned(X87.St(s, n), image + Size + n * 10, 10);
        return i + 1;
    }

    private static bool ProtectedFormat(ProcessorState* s) => CpuMode.IsProtected(s);

    // Unused upper halves of the 32-bit formats are ones for the words and the selector, as processors write them.
    private static void Put(byte* image, int field, uint value)
    {
        if (sizeof(T) == 2) *(ushort*)(image + field * 2) = (ushort)value;
        else *(uint*)(image + field * 4) = value;
    }

    private static uint Take(byte* image, int field) => sizeof(T) == 2 ? *(ushort*)(image + field * 2) : *(uint*)(image + field * 4);

    private static void Build(ProcessorState* s, byte* image)
    {
        Put(image, 0, 0xFFFF_0000u | X87.Control(s));
        Put(image, 1, 0xFFFF_0000u | X87.Status(s));
        Put(image, 2, 0xFFFF_0000u | (uint)X87.FullTags(s));
        uint instruction = (uint)X87.InstructionPointer(s), data = (uint)X87.DataPointer(s), opcode = X87.Opcode(s) & (uint)OpcodeMask;
        if (ProtectedFormat(s))
        {
            Put(image, 3, instruction);
            Put(image, 4, sizeof(T) == 2 ? s->X87Cs : s->X87Cs | opcode << 16);
            Put(image, 5, data);
            Put(image, 6, 0xFFFF_0000u | s->X87Ds);
            return;
        }
        instruction += (uint)s->X87Cs << 4;
        data += (uint)s->X87Ds << 4;
        if (sizeof(T) == 2)
        {
            Put(image, 3, instruction);
            Put(image, 4, instruction >> 4 & 0xF000 | opcode);
            Put(image, 5, data);
            Put(image, 6, data >> 4 & 0xF000);
        }
        else
        {
            Put(image, 3, 0xFFFF_0000u | instruction);
            Put(image, 4, instruction >> 4 & 0x0FFF_F000 | opcode);
            Put(image, 5, 0xFFFF_0000u | data);
            Put(image, 6, data >> 4 & 0x0FFF_F000);
        }
    }

    private static void Load(ProcessorState* s, byte* image)
    {
        X87.SetControl(s, (int)Take(image, 0));
        X87.SetStatus(s, (ushort)Take(image, 1));
        X87.SetFullTags(s, (int)Take(image, 2));
        if (ProtectedFormat(s))
        {
            X87.InstructionPointer(s) = Take(image, 3);
            s->X87Cs = (ushort)Take(image, 4);
            X87.Opcode(s) = sizeof(T) == 2 ? (ushort)0 : (ushort)(Take(image, 4) >> 16 & OpcodeMask);
            X87.DataPointer(s) = Take(image, 5);
            s->X87Ds = (ushort)Take(image, 6);
            return;
        }
        uint upper = sizeof(T) == 2 ? 0xF000u : 0x0FFF_F000u;
        X87.InstructionPointer(s) = (ushort)Take(image, 3) | (Take(image, 4) & upper) << 4;
        X87.Opcode(s) = (ushort)(Take(image, 4) & OpcodeMask);
        X87.DataPointer(s) = (ushort)Take(image, 5) | (Take(image, 6) & upper) << 4;
        s->X87Cs = s->X87Ds = 0;
    }
}
