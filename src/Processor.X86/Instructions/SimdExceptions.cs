using System.Runtime.CompilerServices;
using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// Floating-point exceptions of SSE and AVX arithmetic where overflow or underflow is unmasked. The host computes with everything masked, which does not tell
/// whether the result that a handler of the exception would compute is exact, nor what a dot product's first step raised alone. Rare, so each element is
/// computed once more, exactly.
/// </summary>
/// <remarks>Intel SDM vol. 1, "SIMD Floating-Point Exceptions" and "SIMD Floating-Point Exception Conditions".</remarks>
internal readonly unsafe ref struct SimdExceptions
{
    private readonly ProcessorState* _state;
    private readonly Insn* _insn;
    private readonly byte* _memory;
    private readonly string _name;
    private readonly FloatFormat _format;
    private readonly bool _isVex, _denormalsAreZeros, _flush, _denormalToHalfIsInexact;
    private readonly int _count;
    private readonly Rounding _rounding;
    private readonly Mxcsr _unmasked;

    /// <param name="memory">The memory operand where there is one, else null.</param>
    public SimdExceptions(Processor p, ProcessorState* s, Insn* i, byte* memory)
    {
        _state = s;
        _insn = i;
        _memory = memory;
        OpCodeInfo form = ((Code)i->Code).ToOpCode();
        _isVex = form.Encoding == EncodingKind.VEX;
        string name = form.Mnemonic.ToString().ToUpperInvariant();
        _name = _isVex ? name[1..] : name;
        bool isScalar = _name[^2] == 'S', isConversion = _name.StartsWith("CVT", StringComparison.Ordinal);
        // The source of a conversion: CVTPD2PS, CVTSD2SS, VCVTPS2PH.
        _format = (isConversion ? _name[4] : _name[^1]) == 'D' ? FloatFormat.Double : FloatFormat.Single;
        bool isWide = false;
        for (int n = 0; n < form.OpCount; n++) isWide |= form.GetOpKind(n).ToString().Contains("ymm", StringComparison.Ordinal);
        _count = isScalar ? 1 : (isWide ? 256 : 128) / _format.Bits;
        _rounding = (Rounding)(s->Mxcsr >> 13 & 3);
        _denormalsAreZeros = (s->Mxcsr & (uint)Mxcsr.Daz) != 0;
        _flush = (s->Mxcsr & (uint)Mxcsr.Fz) != 0;
        _unmasked = Simd.Unmasked(s->Mxcsr);
        _denormalToHalfIsInexact = p.Model.Behavior.DenormalToHalfIsInexact;
    }

    public static bool IsDotProduct(Code code) => code is Code.Dpps_xmm_xmmm128_imm8 or Code.Dppd_xmm_xmmm128_imm8
        or Code.VEX_Vdpps_xmm_xmm_xmmm128_imm8 or Code.VEX_Vdpps_ymm_ymm_ymmm256_imm8 or Code.VEX_Vdppd_xmm_xmm_xmmm128_imm8;

    /// <summary>VCVTPS2PH: FZ has no effect on it.</summary>
    public static bool IsConversionToHalf(Code code) => code is Code.VEX_Vcvtps2ph_xmmm64_xmm_imm8 or Code.VEX_Vcvtps2ph_xmmm128_ymm_imm8;

    /// <summary>OE, UE and PE of all elements.</summary>
    public Mxcsr Arithmetic()
    {
        Mxcsr raised = 0;
        for (int n = 0; n < _count; n++) raised |= Element(n);
        return raised;
    }

    private Mxcsr Element(int n)
    {
        bool isOdd = (n & 1) != 0;
        if (_name.StartsWith("FM", StringComparison.Ordinal) || _name.StartsWith("FNM", StringComparison.Ordinal)) return Fused(n);
        switch (_name[..^2])
        {
            case "ADD": return Round(ExactNumber.Add(First(n), Second(n)));
            case "SUB": return Round(ExactNumber.Add(First(n), Second(n).Negated));
            case "ADDSUB": return Round(ExactNumber.Add(First(n), isOdd ? Second(n) : Second(n).Negated));
            case "MUL": return Round(ExactNumber.Multiply(First(n), Second(n)));
            case "DIV": return Round(ExactNumber.Divide(First(n), Second(n), _format));
            case "HADD" or "HSUB":
                // Each neighbours' sum once, of both operands.
                if (isOdd) return 0;
                bool subtracts = _name[1] == 'S';
                return Round(Neighbours(First(n), First(n + 1), subtracts)) | Round(Neighbours(Second(n), Second(n + 1), subtracts));
            case "CVTPD2" or "CVTSD2":
                Decode(Last(), n).Round(FloatFormat.Single, _rounding, _unmasked, _flush, out Mxcsr narrowed);
                return narrowed;
            case "CVTPS2": return ToHalf(n);
            default: throw new InvalidOperationException($"overflow of {_name}");
        }
    }

    private static ExactNumber Neighbours(ExactNumber a, ExactNumber b, bool subtracts) => ExactNumber.Add(a, subtracts ? b.Negated : b);

    private Mxcsr Round(ExactNumber exact)
    {
        exact.Round(_format, _rounding, _unmasked, _flush, out Mxcsr raised);
        return raised;
    }

    /// <summary>VFMADD, VFMSUB, VFNMADD, VFNMSUB, VFMADDSUB, VFMSUBADD in their three orders.</summary>
    private Mxcsr Fused(int n)
    {
        bool negatesProduct = _name.StartsWith("FNM", StringComparison.Ordinal);
        string rest = _name[(negatesProduct ? 3 : 2)..]; // ADD213PD, SUBADD132PS, ...
        string order = rest[^5..^2];
        bool subtracts = rest[..^5] switch { "ADD" => false, "SUB" => true, "ADDSUB" => (n & 1) == 0, _ => (n & 1) != 0 };
        ExactNumber product = ExactNumber.Multiply(Operand(order[0], n), Operand(order[1], n)), addend = Operand(order[2], n);
        return Round(ExactNumber.Add(negatesProduct ? product.Negated : product, subtracts ? addend.Negated : addend));
    }

    private ExactNumber Operand(char number, int n) => Decode(number switch { '1' => Register(_insn->R0), '2' => Register(_insn->R1), _ => Last() }, n);

    private Mxcsr ToHalf(int n)
    {
        byte* source = Register(_memory != null ? _insn->R0 : _insn->R1);
        var rounding = (_insn->Imm & 4) != 0 ? _rounding : (Rounding)(_insn->Imm & 3);
        ExactNumber value = Decode(source, n);
        value.Round(FloatFormat.Half, rounding, _unmasked, flush: false, out Mxcsr raised);
        if (_denormalToHalfIsInexact && value.IsDenormal(FloatFormat.Single)) raised |= Mxcsr.Pe;
        return raised;
    }

    /// <summary>
    /// All exceptions of DPPS and DPPD. They multiply, then add neighbours until one sum is left; the step that raises an unmasked exception is the last, and
    /// of a step's own exceptions those that are found before it computes come first.
    /// </summary>
    public Mxcsr DotProduct()
    {
        Mxcsr all = 0;
        int perLane = 128 / _format.Bits, lanes = _count / perLane;
        var terms = new ExactNumber[_count];
        Mxcsr step = 0;
        for (int n = 0; n < _count; n++)
        {
            if ((_insn->Imm >> (4 + n % perLane) & 1) == 0)
            {
                terms[n] = new ExactNumber(NumberKind.Finite, false, 0, 0);
                continue;
            }
            step |= Multiply(n, out terms[n]);
        }
        for (int width = perLane; ; width /= 2)
        {
            if ((step & _unmasked & Mxcsr.PreComputation) != 0) step &= Mxcsr.PreComputation;
            all |= step;
            if ((step & _unmasked) != 0 || width == 1) return all;
            step = 0;
            for (int n = 0; n < lanes * width / 2; n++) step |= AddTerms(terms[2 * n], terms[2 * n + 1], out terms[n]);
        }
    }

    private Mxcsr Multiply(int n, out ExactNumber product)
    {
        ExactNumber a = First(n), b = Second(n);
        product = ExactNumber.Multiply(a, b);
        Mxcsr raised = ExactNumber.IsSignalling(Bits(FirstPointer, n), _format) || ExactNumber.IsSignalling(Bits(Last(), n), _format) ? Mxcsr.Ie : 0;
        if (product.Kind == NumberKind.NaN) return raised | Invalid(a, b);
        raised |= Denormal(a, b);
        product = product.Round(_format, _rounding, _unmasked, _flush, out Mxcsr rounded);
        return raised | rounded;
    }

    private Mxcsr AddTerms(ExactNumber a, ExactNumber b, out ExactNumber sum)
    {
        if (_denormalsAreZeros)
        {
            if (a.IsDenormal(_format)) a = a with { Magnitude = 0 };
            if (b.IsDenormal(_format)) b = b with { Magnitude = 0 };
        }
        sum = ExactNumber.Add(a, b);
        if (sum.Kind == NumberKind.NaN) return Invalid(a, b);
        sum = sum.Round(_format, _rounding, _unmasked, _flush, out Mxcsr raised);
        return raised | Denormal(a, b);
    }

    /// <summary>The result is NaN though neither operand is.</summary>
    private static Mxcsr Invalid(ExactNumber a, ExactNumber b) => a.Kind != NumberKind.NaN && b.Kind != NumberKind.NaN ? Mxcsr.Ie : 0;

    private Mxcsr Denormal(ExactNumber a, ExactNumber b) => a.IsDenormal(_format) || b.IsDenormal(_format) ? Mxcsr.De : 0;

    private byte* Register(ushort offset) => (byte*)_state + offset;

    private byte* FirstPointer => Register(_isVex ? _insn->R1 : _insn->R0);

    /// <summary>The last operand, which may be in memory.</summary>
    private byte* Last() => _memory != null ? _memory : Register(LastRegister);

    private ushort LastRegister => _isVex && !_name.StartsWith("CVTPD", StringComparison.Ordinal) ? _insn->R2 : _insn->R1;

    private ExactNumber First(int n) => Decode(FirstPointer, n);

    private ExactNumber Second(int n) => Decode(Last(), n);

    private ulong Bits(byte* vector, int n) => _format.Bits == 64 ? Unsafe.ReadUnaligned<ulong>(vector + n * 8) : Unsafe.ReadUnaligned<uint>(vector + n * 4);

    private ExactNumber Decode(byte* vector, int n) => ExactNumber.Decode(Bits(vector, n), _format, _denormalsAreZeros);
}
