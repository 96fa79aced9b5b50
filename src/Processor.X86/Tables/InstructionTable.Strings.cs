using Iced.Intel;

namespace Bunraku.Processor.X86;

internal static unsafe partial class InstructionTable
{
    private static partial void Strings(Builder t)
    {
#pragma warning disable IDE0055 // one aligned row an instruction
        t.Add(Code.Movsb_m8_m8,   &Strings<byte>.Movs,   &Strings<byte>.Movs,   flags: Row.OwnSegmentation);
        t.Add(Code.Movsw_m16_m16, &Strings<ushort>.Movs, &Strings<ushort>.Movs, flags: Row.OwnSegmentation);
        t.Add(Code.Movsd_m32_m32, &Strings<uint>.Movs,   &Strings<uint>.Movs,   flags: Row.OwnSegmentation);
        t.Add(Code.Movsq_m64_m64, &Strings<ulong>.Movs,  &Strings<ulong>.Movs,  flags: Row.OwnSegmentation);
        t.Add(Code.Cmpsb_m8_m8,   &Strings<byte>.Cmps,   &Strings<byte>.Cmps,   flags: Row.OwnSegmentation);
        t.Add(Code.Cmpsw_m16_m16, &Strings<ushort>.Cmps, &Strings<ushort>.Cmps, flags: Row.OwnSegmentation);
        t.Add(Code.Cmpsd_m32_m32, &Strings<uint>.Cmps,   &Strings<uint>.Cmps,   flags: Row.OwnSegmentation);
        t.Add(Code.Cmpsq_m64_m64, &Strings<ulong>.Cmps,  &Strings<ulong>.Cmps,  flags: Row.OwnSegmentation);
        t.Add(Code.Stosb_m8_AL,   &Strings<byte>.Stos,   &Strings<byte>.Stos,   flags: Row.OwnSegmentation);
        t.Add(Code.Stosw_m16_AX,  &Strings<ushort>.Stos, &Strings<ushort>.Stos, flags: Row.OwnSegmentation);
        t.Add(Code.Stosd_m32_EAX, &Strings<uint>.Stos,   &Strings<uint>.Stos,   flags: Row.OwnSegmentation);
        t.Add(Code.Stosq_m64_RAX, &Strings<ulong>.Stos,  &Strings<ulong>.Stos,  flags: Row.OwnSegmentation);
        t.Add(Code.Lodsb_AL_m8,   &Strings<byte>.Lods,   &Strings<byte>.Lods,   flags: Row.OwnSegmentation);
        t.Add(Code.Lodsw_AX_m16,  &Strings<ushort>.Lods, &Strings<ushort>.Lods, flags: Row.OwnSegmentation);
        t.Add(Code.Lodsd_EAX_m32, &Strings<uint>.Lods,   &Strings<uint>.Lods,   flags: Row.OwnSegmentation);
        t.Add(Code.Lodsq_RAX_m64, &Strings<ulong>.Lods,  &Strings<ulong>.Lods,  flags: Row.OwnSegmentation);
        t.Add(Code.Scasb_AL_m8,   &Strings<byte>.Scas,   &Strings<byte>.Scas,   flags: Row.OwnSegmentation);
        t.Add(Code.Scasw_AX_m16,  &Strings<ushort>.Scas, &Strings<ushort>.Scas, flags: Row.OwnSegmentation);
        t.Add(Code.Scasd_EAX_m32, &Strings<uint>.Scas,   &Strings<uint>.Scas,   flags: Row.OwnSegmentation);
        t.Add(Code.Scasq_RAX_m64, &Strings<ulong>.Scas,  &Strings<ulong>.Scas,  flags: Row.OwnSegmentation);
#pragma warning restore IDE0055
    }
}
